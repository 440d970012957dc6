// Updates of all parameters of a group in one launch, and the norm of all gradients.
//
// A table, passed by value, says where up to 64 parameters with their gradients and states lie: a
// launch reads no table from memory, and a captured one keeps its own. Each block works on a chunk
// of one parameter. Numbers that change between steps (rates, corrections, the loss scale)
// are read from memory. Arithmetic is in float for half precision, else in the parameters' type.
//
// kernel sgd: e E f d
// kernel adam: e E f d
// kernel rmsprop: e E f d
// kernel adagrad: e E f d
// kernel write: f d
// kernel squares: e E f d
// kernel clipping: e E f d
// kernel scale: e E f d
// kernel unscale: e E f d
// kernel grow:
#include "numbers.cuh"
#include "packs.cuh"

#define MOST 64

struct Table {
    void *at[5][MOST];     // parameter, gradient, and up to three arrays of state, or null
    long long size[MOST];
    int first_block[MOST]; // of each parameter; those of a table stand in the order of blocks
    int numbers[MOST];     // where its numbers stand in the row
    int index[MOST];       // where its skipped steps are counted
    int count;
    int chunk;             // elements of a block
};

struct Span {
    int which;
    long long begin, end;
};

// What this block works on.
__device__ __forceinline__ Span span_of_block(const Table &table) {
    int low = 0, high = table.count - 1, block = blockIdx.x;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (table.first_block[middle] <= block) low = middle; else high = middle - 1;
    }
    long long begin = (long long)(block - table.first_block[low]) * table.chunk;
    long long size = table.size[low];
    return Span{low, begin, begin + table.chunk < size ? begin + table.chunk : size};
}

// Whether gradients overflowed, so that this step changes nothing but the count of skipped steps.
__device__ __forceinline__ bool skips(const Table &table, const Span &span, const float *found_inf,
                                      int *skipped) {
    if (!found_inf || *found_inf == 0) return false;
    if (skipped && span.begin == 0 && threadIdx.x == 0) skipped[table.index[span.which]] += 1;
    return true;
}

// The number of the step that this is for the parameter: the host counted the skipped ones as well.
__device__ __forceinline__ int skipped_before(const Table &table, const Span &span, int *skipped) {
    return skipped ? skipped[table.index[span.which]] : 0;
}

// update(parameter, gradient, state…) for each element of the span, in the wide type, of the first
// ARRAYS of those; the others are 0. Gradients are divided by the scale first; they stay so where
// there is one, or if the update `writes` them.
template <typename T, int ARRAYS, typename Update>
__device__ __forceinline__ void for_each(const Table &table, const Span &span, const float *scale,
                                         Update update, bool writes = false) {
    typedef typename Wide<T>::type W;
    T *arrays[ARRAYS];
    bool aligned = true;
#pragma unroll
    for (int a = 0; a < ARRAYS; a++) {
        arrays[a] = (T *)table.at[a][span.which];
        if (arrays[a]) arrays[a] += span.begin;
        aligned = aligned && Pack<T, 4>::begins(arrays[a]);
    }
    const int size = span.end - span.begin;
    const W divisor = scale ? (W)*scale : (W)1;
    for (int i = 4 * threadIdx.x; i < size; i += 4 * blockDim.x) {
        const bool whole = aligned && i + 4 <= size;
        Pack<T, 4> held[ARRAYS];
#pragma unroll
        for (int a = 0; a < ARRAYS; a++)
            if (arrays[a]) held[a].read(arrays[a] + i, whole, size - i);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            if (i + k >= size) break;
            W x[5] = {};
#pragma unroll
            for (int a = 0; a < ARRAYS; a++) if (arrays[a]) x[a] = wide(held[a].at[k]);
            if (scale) x[1] = x[1] / divisor;
            update(x[0], x[1], x[2], x[3], x[4]);
#pragma unroll
            for (int a = 0; a < ARRAYS; a++) held[a].at[k] = narrow<T>(x[a]);
        }
#pragma unroll
        for (int a = 0; a < ARRAYS; a++)
            if (arrays[a] && (a != 1 || scale || writes))
                held[a].write(arrays[a] + i, whole, size - i);
    }
}

// g + decay · w, with -g for g where it is to be maximized.
template <typename W>
__device__ __forceinline__ W penalized(W w, W g, W decay, bool maximize) {
    if (maximize) g = -g;
    return decay != 0 ? w * decay + g : g;
}

// An update reads its numbers in the order of the rule's Numbers; bit i of `terms` says whether the
// i-th is a term of the update, or a flag that is set. Its arrays of state are those of the rule,
// null where they are not in use.
#define HAS(number) ((terms >> (number)) & 1)

template <typename T>
__global__ void sgd(Table table, const double *row, const float *scale, const float *found_inf,
                    int *skipped, int terms) {
    enum { RATE, DECAY, MOMENTUM, SHARE, AHEAD, MAXIMIZE };
    typedef typename Wide<T>::type W;
    const Span span = span_of_block(table);
    if (skips(table, span, found_inf, skipped)) return;
    const double *numbers = row + table.numbers[span.which];
    const W rate = numbers[RATE], decay = numbers[DECAY], momentum = numbers[MOMENTUM];
    const W share = numbers[SHARE], ahead = numbers[AHEAD];
    for_each<T, 3>(table, span, scale, [=](W &w, W g, W &buffer, W &, W &) {
        W direction = penalized(w, g, decay, HAS(MAXIMIZE)), step = rate;
        if (HAS(MOMENTUM)) {
            if (HAS(SHARE)) direction = direction * share;
            buffer = buffer * momentum + direction;
            if (HAS(AHEAD)) {
                w = w - direction * rate;
                step = ahead;
            }
            direction = buffer;
        }
        w = w - direction * step;
    });
}

// Size and eps follow from the last three where steps were skipped.
template <typename T>
__global__ void adam(Table table, const double *row, const float *scale, const float *found_inf,
                     int *skipped, int terms) {
    enum { SIZE, EPS, BETA1, SHARE1, BETA2, SHARE2, SHRINK, DECAY, MAXIMIZE, RATE, PLAIN_EPS, STEP };
    typedef typename Wide<T>::type W;
    __shared__ double corrected[2];
    const Span span = span_of_block(table);
    if (skips(table, span, found_inf, skipped)) return;
    const double *numbers = row + table.numbers[span.which];
    if (threadIdx.x == 0) {
        const int before = skipped_before(table, span, skipped);
        corrected[0] = numbers[SIZE];
        corrected[1] = numbers[EPS];
        if (before) {
            const double step = numbers[STEP] - before;
            const double correction = sqrt(1.0 - pow(numbers[BETA2], step));
            corrected[0] = numbers[RATE] * correction / (1.0 - pow(numbers[BETA1], step));
            corrected[1] = numbers[PLAIN_EPS] * correction;
        }
    }
    __syncthreads();
    const W size = corrected[0], eps = corrected[1], beta1 = numbers[BETA1];
    const W share1 = numbers[SHARE1], beta2 = numbers[BETA2], share2 = numbers[SHARE2];
    const W shrink = numbers[SHRINK], decay = numbers[DECAY];
    const bool amsgrad = table.at[4][span.which] != 0;
    for_each<T, 5>(table, span, scale, [=](W &w, W g, W &mean, W &square, W &largest) {
        if (HAS(SHRINK)) w = w * shrink;
        g = penalized(w, g, decay, HAS(MAXIMIZE));
        mean = mean * beta1 + g * share1;
        square = square * beta2 + g * g * share2;
        W used = square;
        if (amsgrad) used = largest = larger(largest, square);
        w = w - mean / (square_root(used) + eps) * size;
    });
}

template <typename T>
__global__ void rmsprop(Table table, const double *row, const float *scale, const float *found_inf,
                        int *skipped, int terms) {
    enum { RATE, EPS, ALPHA, SHARE, DECAY, MOMENTUM, MAXIMIZE };
    typedef typename Wide<T>::type W;
    const Span span = span_of_block(table);
    if (skips(table, span, found_inf, skipped)) return;
    const double *numbers = row + table.numbers[span.which];
    const W rate = numbers[RATE], eps = numbers[EPS], alpha = numbers[ALPHA];
    const W share = numbers[SHARE], decay = numbers[DECAY], momentum = numbers[MOMENTUM];
    const bool centered = table.at[4][span.which] != 0;
    for_each<T, 5>(table, span, scale, [=](W &w, W g, W &square, W &buffer, W &mean) {
        g = penalized(w, g, decay, HAS(MAXIMIZE));
        square = square * alpha + g * g * share;
        W spread = square;
        if (centered) {
            mean = mean * alpha + g * share;
            spread = square - mean * mean;
        }
        W step = g / (square_root(spread) + eps);
        if (HAS(MOMENTUM)) step = buffer = buffer * momentum + step;
        w = w - step * rate;
    });
}

// The rate follows from the last three where steps were skipped.
template <typename T>
__global__ void adagrad(Table table, const double *row, const float *scale, const float *found_inf,
                        int *skipped, int terms) {
    enum { RATE, EPS, DECAY, MAXIMIZE, FULL_RATE, RATE_DECAY, STEP };
    typedef typename Wide<T>::type W;
    const Span span = span_of_block(table);
    if (skips(table, span, found_inf, skipped)) return;
    const double *numbers = row + table.numbers[span.which];
    const int before = skipped_before(table, span, skipped);
    W rate = numbers[RATE];
    if (before)
        rate = numbers[FULL_RATE] / (1.0 + (numbers[STEP] - before - 1.0) * numbers[RATE_DECAY]);
    const W eps = numbers[EPS], decay = numbers[DECAY];
    for_each<T, 3>(table, span, scale, [=](W &w, W g, W &total, W &, W &) {
        g = penalized(w, g, decay, HAS(MAXIMIZE));
        total = total + g * g;
        w = w - g / (square_root(total) + eps) * rate;
    });
}

// Numbers on their way from the host: they travel as an argument, so that nothing is copied.
struct Values {
    double value[256];
    int place[256];
    int count;
};

template <typename T> __global__ void write(Values values, T *out) {
    const int i = threadIdx.x;
    if (i < values.count) out[values.place[i]] = (T)values.value[i];
}

// The sum of the squares of each block's elements, at a place of its own.
template <typename T> __global__ void squares(Table table, double *sums) {
    typedef typename Wide<T>::type W;
    W sum = 0;
    for_each<T, 2>(table, span_of_block(table), 0,
                [&](W &, W g, W &, W &, W &) { sum += g * g; });
    const double total = over_block((double)sum, Add(), 0.0);
    if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

// norm = the square root of all sums, factor = min(1, most / (norm + 1e-6)); NaN stays NaN.
template <typename T>
__global__ void __launch_bounds__(1024) clipping(
    T *norm, double *factor, const double *sums, int count, double most) {
    double total = 0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) total += sums[i];
    total = over_block(total, Add(), 0.0);
    if (threadIdx.x == 0) {
        const double root = sqrt(total), part = most / (root + 1e-6);
        *norm = narrow<T>((typename Wide<T>::type)root);
        *factor = part < 1 || part != part ? part : 1;
    }
}

// gradient = gradient · factor
template <typename T> __global__ void scale(Table table, const double *factor) {
    typedef typename Wide<T>::type W;
    const W by = *factor;
    for_each<T, 2>(table, span_of_block(table), 0,
                [=](W &, W &g, W &, W &, W &) { g = g * by; }, true);
}

// Notes whether a gradient is infinite or NaN, and divides it by the loss scale, where there is one.
template <typename T>
__global__ void unscale(Table table, const float *scale, float *found_inf) {
    typedef typename Wide<T>::type W;
    const W divisor = scale ? (W)*scale : (W)1;
    bool found = false;
    for_each<T, 2>(table, span_of_block(table), 0, [&](W &, W &g, W &, W &, W &) {
        found = found || !(g - g == 0);  // infinity less infinity is NaN
        g = g / divisor;
    }, scale != 0);
    if (found) *found_inf = 1;  // whoever writes it writes the same
}

// The loss scale after a step: smaller if gradients overflowed, larger after so many that did not.
__global__ void grow(float *scale, int *steps, float *found_inf, float growth, float backoff,
                     int interval) {
    if (*found_inf != 0) {
        *found_inf = 0;
        *scale *= backoff;
        *steps = 0;
    } else if (++*steps == interval) {
        const float larger_scale = *scale * growth;
        if (larger_scale - larger_scale == 0) *scale = larger_scale;
        *steps = 0;
    }
}
