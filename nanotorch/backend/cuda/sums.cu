// Elements added up by index, in an order that never changes.
//
// An array is seen as (outer, rows, inner): the index counts rows, the rest is added whole. The
// positions of the index are sorted by the place they name, by a stable radix sort of 8 bits at a
// time. Then every place gets its sum in the order of the batch, ((x + v0) + v1) + …, in float32 for
// float16; a place named more than PIECE times gets the sums of pieces of so many, in their order.
// No launch shape and no race shows in the result: atomics count integers alone.
//
// kernel sort_by_digit:
// kernel add_sorted: e f d I L
// kernel add_pieces: e f d I L
// kernel add_along: e f d I L
#include "numbers.cuh"
#include "checks.cuh"
#include "order.cuh"

typedef long long Long;

const int WARPS = 4;     // of a block that adds; each of its warps works alone
const int TOGETHER = 8;  // values of a column that are loaded before they are added, in order
const int PIECE = 512;   // positions of a place that one warp adds up
const int DIGITS = 256;  // and threads of a block that sorts
const unsigned ALL = 0xffffffffu;

// What is sorted: at first an index, where a place outside counts as the one behind all others; and
// from then on places, with the positions that they had in the index.
struct Keys {
    const Long* index;
    const int *places, *positions;
    int wraps;
    Long count, rows;

    __device__ __forceinline__ int operator[](Long n) const {
        if (positions) return places[n];
        const Long place = place_of(index[n], rows, wraps);
        return (int)(place < 0 ? rows : place);
    }
};

// The keys and their positions, sorted by one digit and else as they were. Thread d of a block looks
// after digit d. One block counts by itself; several are given the counts of all, (gridDim.x, DIGITS),
// which they write where there is nothing to write the keys to.
__global__ void sort_by_digit(
    int* sorted, int* sorted_positions, int* counts, const Long* index, const int* places,
    const int* positions, Long* word, int op, int wraps, Long count, Long rows, Long span, int shift) {
    __shared__ int warps[DIGITS / 32][DIGITS];
    const Keys keys = {index, places, positions, wraps, count, rows};
    const Long first = blockIdx.x * span, end = first + span < count ? first + span : count;
    const int digit = threadIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int total = 0, next = 0;  // of all blocks; where this block's next key of the digit goes
    if (!sorted || gridDim.x == 1) {
        warps[0][digit] = 0;
        __syncthreads();
        for (Long n = first + digit; n < end; n += DIGITS)
            atomicAdd(&warps[0][keys[n] >> shift & (DIGITS - 1)], 1);
        __syncthreads();
        total = warps[0][digit];
        if (!sorted) {
            counts[(Long)blockIdx.x * DIGITS + digit] = total;
            return;
        }
    } else
        for (int block = 0; block < gridDim.x; block++) {
            const int of_block = counts[(Long)block * DIGITS + digit];
            if (block < blockIdx.x) next += of_block;
            total += of_block;
        }
    warps[1][digit] = total;
    for (int distance = 1; distance < DIGITS; distance *= 2) {
        __syncthreads();
        const int before = digit >= distance ? warps[1][digit - distance] : 0;
        __syncthreads();
        warps[1][digit] += before;
    }
    next += warps[1][digit] - total;
    __syncthreads();

    for (Long base = first; base < end; base += DIGITS) {
        const Long n = base + threadIdx.x;
        const bool here = n < end;
        const int key = here ? keys[n] : 0, own = key >> shift & (DIGITS - 1);
        if (here && !positions && key == rows) flag(word, op, index[n], rows);
        unsigned alike = __ballot_sync(ALL, here);  // the lanes with the same digit
#pragma unroll
        for (int bit = 0; bit < 8; bit++) {
            const unsigned set = __ballot_sync(ALL, own >> bit & 1);
            alike &= own >> bit & 1 ? set : ~set;
        }
        const int earlier = __popc(alike & ((1u << lane) - 1));
        for (int w = 0; w < DIGITS / 32; w++) warps[w][digit] = 0;
        __syncthreads();
        if (here && earlier == 0) warps[warp][own] = __popc(alike);
        __syncthreads();
        for (int w = 0; w < DIGITS / 32; w++) {
            const int of_warp = warps[w][digit];
            warps[w][digit] = next;
            next += of_warp;
        }
        __syncthreads();
        if (here) {
            const int to = warps[warp][own] + earlier;
            sorted[to] = key;
            sorted_positions[to] = positions ? positions[n] : (int)n;
        }
        __syncthreads();
    }
}

// The first of the sorted places from `low` up to `high` that is not below `place`.
__device__ __forceinline__ Long first_of(const int* places, int place, Long low, Long high) {
    while (low < high) {
        const Long middle = (low + high) / 2;
        if (places[middle] < place) low = middle + 1; else high = middle;
    }
    return low;
}

// Where the sum of the piece that begins at i is kept: of the pieces that begin among PIECE
// positions, one at most is the first of its place and has others, and one at most is another.
__device__ __forceinline__ Long slot_of(Long i, bool first) { return 2 * (i / PIECE) + first; }

// out (outer, rows, inner) += values (outer, count, inner) by the sorted places and their positions;
// of places with several pieces, the pieces' sums go to `parts`. A thread per position and column, of
// which `width` are counted: the first of a piece adds up all of it, others have nothing to do.
template <typename T>
__global__ void add_sorted(
    T* out, typename Wide<T>::type* parts, const T* __restrict__ values,
    const int* __restrict__ places, const int* __restrict__ positions, Long outer, Long count,
    Long rows, Long inner, Long width) {
    typedef typename Wide<T>::type W;
    const Long columns = outer * inner, thread = (Long)blockIdx.x * blockDim.x + threadIdx.x;
    const Long i = thread / width, column = thread % width;
    if (i >= count || places[i] >= rows) return;
    const int place = places[i];
    const bool first = i == 0 || places[i - 1] != place;
    if (!first) {
        if (i < PIECE || places[i - PIECE] != place) return;
        if ((i - first_of(places, place, 0, i)) % PIECE) return;
    }
    const Long limit = i + PIECE < count ? i + PIECE : count;
    const int n = (int)(first_of(places, place + 1, i, limit) - i);
    const bool whole = first && (limit == count || places[limit] != place);
    if (column >= columns) return;
    const Long o = column / inner, q = column % inner;
    T* target = out + (o * rows + place) * inner + q;
    values += o * count * inner + q;
    W sum = first ? (W)*target : W();
    for (int t = 0; t < n; t += TOGETHER) {
        T value[TOGETHER];
#pragma unroll
        for (int u = 0; u < TOGETHER; u++)
            if (t + u < n) value[u] = values[positions[i + t + u] * inner];
#pragma unroll
        for (int u = 0; u < TOGETHER; u++)
            if (t + u < n) sum = (W)(sum + (W)value[u]);
    }
    if (whole)
        *target = narrow<T, W>(sum);
    else
        parts[slot_of(i, first) * columns + column] = sum;
}

// The sums of the places with several pieces. A warp per PIECE positions and 32 columns: one such
// place at most begins there.
template <typename T>
__global__ void add_pieces(
    T* out, const typename Wide<T>::type* __restrict__ parts, const int* __restrict__ places,
    Long outer, Long count, Long rows, Long inner) {
    typedef typename Wide<T>::type W;
    const int lane = threadIdx.x % 32;
    const Long columns = outer * inner, tiles = (columns + 31) / 32;
    const Long warp = (Long)blockIdx.x * WARPS + threadIdx.x / 32;
    const Long low = warp / tiles * PIECE, column = warp % tiles * 32 + lane;
    unsigned begins = 0;
    Long start = low;
    for (; start < low + PIECE && !begins; start += 32) {
        const Long i = start + lane;
        begins = __ballot_sync(
            ALL, i + PIECE < count && places[i] < rows && places[i + PIECE] == places[i] &&
                     (i == 0 || places[i - 1] != places[i]));
    }
    if (!begins || column >= columns) return;
    start += __popc((begins & (~begins + 1)) - 1) - 32;
    const int place = places[start];
    const Long end = first_of(places, place + 1, start, count);
    W sum = parts[slot_of(start, true) * columns + column];
#pragma unroll 8
    for (Long i = start + PIECE; i < end; i += PIECE)
        sum = (W)(sum + parts[slot_of(i, false) * columns + column]);
    const Long o = column / inner, q = column % inner;
    out[(o * rows + place) * inner + q] = narrow<T, W>(sum);
}

// out (outer, rows, inner, parts)[o, index[o, i, q], q] += values (outer, length, inner, parts)
// [o, i, q]. A thread per column, which no other column meets, walks along `length`; or, if it is at
// most `padded`, 4096 or a lower power of two, and rows below 2^20 - 1, a block per column sorts it.
template <typename T>
__global__ void add_along(
    typename Wide<T>::type* out, const T* __restrict__ values, const Long* __restrict__ index,
    Long* word, int op, int wraps, Long columns, Long length, Long rows, Long inner, Long parts,
    int padded) {
    typedef typename Wide<T>::type W;
    __shared__ unsigned sorted[4096];  // the places, each with where it was found
    const Long column = (Long)blockIdx.x * (padded ? 1 : blockDim.x) + (padded ? 0 : threadIdx.x);
    if (column >= columns) return;
    const Long part = column % parts, q = column / parts % inner, o = column / parts / inner;
    auto place = [&](Long i) {
        const Long given = index[(o * length + i) * inner + q], place = place_of(given, rows, wraps);
        if (place < 0 && part == 0) flag(word, op, given, rows);
        return place;
    };
    auto value = [&](Long i) { return (W)values[((o * length + i) * inner + q) * parts + part]; };
    auto target = [&](Long place) { return out + ((o * rows + place) * inner + q) * parts + part; };
    if (!padded) {
#pragma unroll 4
        for (Long i = 0; i < length; i++) {
            const Long to = place(i);
            if (to >= 0) *target(to) = (W)(*target(to) + value(i));
        }
        return;
    }
    for (int i = threadIdx.x; i < padded; i += blockDim.x) {
        const Long to = i < length ? place(i) : -1;
        sorted[i] = to < 0 ? ~0u : (unsigned)to << 12 | i;
    }
    sort_block(sorted, padded);
    for (int i = threadIdx.x; i < length; i += blockDim.x) {
        const unsigned to = sorted[lying(i)] >> 12;
        if (sorted[lying(i)] == ~0u || (i && sorted[lying(i - 1)] >> 12 == to)) continue;
        W sum = *target(to);
        for (int k = i; k < length && sorted[lying(k)] >> 12 == to; k++)
            sum = (W)(sum + value(sorted[lying(k)] & 4095));
        *target(to) = sum;
    }
}
