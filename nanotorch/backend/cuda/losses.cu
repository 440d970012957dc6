// Losses and their derivatives. Sums are taken in an order that depends on the sizes alone.
//
// kernel bce_with_logits: e E f d
// kernel bce_with_logits_reverse: e E f d
// kernel mse: e E f d
// kernel mse_reverse: e E f d
// kernel nll: e E f d
// kernel nll_reverse: e E f d
// kernel nll_weight: e E f d
// kernel quotient: e E f d
#include "checks.cuh"
#include "numbers.cuh"

// What a loss does with its elements: the numbers that nanotorch/backend/cuda/losses.py passes.
enum Reduction { NONE, MEAN, SUM };

// A loss of logit x and target t, and its slope.
struct Bce {
    template <typename W> __device__ W operator()(W x, W t) const {
        W size = x < 0 ? x : -x;
        if (size == -INFINITE(W)) return t == (W)(x > 0) ? (W)0 : INFINITE(W);  // right or wrong
        return (larger(x, (W)0) - x * t) + logarithm1p(exponential(size));
    }
    template <typename W> __device__ W slope(W x, W t) const { return 1 / (1 + exponential(-x)) - t; }
};
struct Mse {
    template <typename W> __device__ W operator()(W x, W t) const { return (x - t) * (x - t); }
    template <typename W> __device__ W slope(W x, W t) const { return 2 * (x - t); }
};

// y: n losses; or their sum or mean; or, from several blocks, one partial sum of each in `parts`.
template <typename T, typename Loss>
__device__ __forceinline__ void elementwise_loss(
    const T* x, const T* target, T* y, typename Wide<T>::type* parts, long long n, int reduction,
    Loss loss) {
    typedef typename Wide<T>::type W;
    long long stride = (long long)gridDim.x * blockDim.x;
    W sum = 0;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
        W value = loss(wide(x[i]), wide(target[i]));
        if (reduction == NONE)
            y[i] = narrow<T>(value);
        else
            sum += value;
    }
    if (reduction == NONE) return;
    sum = over_block(sum, Add(), (W)0);
    if (threadIdx.x) return;
    if (gridDim.x > 1)
        parts[blockIdx.x] = sum;
    else
        y[0] = narrow<T>(reduction == MEAN ? sum / (W)n : sum);
}

// -(t log sigmoid(x) + (1 - t) log(1 - sigmoid(x)))
template <typename T>
__global__ void __launch_bounds__(1024) bce_with_logits(
    const T* x, const T* target, T* y, typename Wide<T>::type* parts, long long n, int reduction) {
    elementwise_loss(x, target, y, parts, n, reduction, Bce());
}

// (x - t)^2
template <typename T>
__global__ void __launch_bounds__(1024) mse(
    const T* x, const T* target, T* y, typename Wide<T>::type* parts, long long n, int reduction) {
    elementwise_loss(x, target, y, parts, n, reduction, Mse());
}

// g / divisor * slope, with a g of each element or one for all
template <typename T, typename Loss>
__device__ __forceinline__ void elementwise_reverse(
    const T* g, const T* x, const T* target, T* y, long long n, int each, double divisor, Loss loss) {
    typedef typename Wide<T>::type W;
    long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)
        y[i] = narrow<T>(wide(g[each ? i : 0]) / (W)divisor * loss.slope(wide(x[i]), wide(target[i])));
}

// g / divisor * (sigmoid(x) - t)
template <typename T>
__global__ void bce_with_logits_reverse(const T* g, const T* x, const T* target, T* y, long long n,
                                        int each, double divisor) {
    elementwise_reverse(g, x, target, y, n, each, divisor, Bce());
}

// g / divisor * 2 (x - t)
template <typename T>
__global__ void mse_reverse(const T* g, const T* x, const T* target, T* y, long long n, int each,
                            double divisor) {
    elementwise_reverse(g, x, target, y, n, each, divisor, Mse());
}

// The weight of a sample of class t: 0 for those to ignore, NaN for a class that does not exist.
template <typename T>
__device__ __forceinline__ typename Wide<T>::type weight_of(const T* weight, int weighted,
                                                            long long t, long long classes,
                                                            long long ignored) {
    typedef typename Wide<T>::type W;
    if (t == ignored) return 0;
    if (place_of(t, classes, 0) < 0) return NOT_A_NUMBER(W);
    return weighted ? wide(weight[t]) : (W)1;
}

// -weight[t] * x[…, t, …] of each of n samples, x (n / inner, classes, inner); or their sum; or that
// divided by the sum of the weights. From several blocks: both partial sums of each in `parts`.
template <typename T>
__global__ void __launch_bounds__(1024) nll(
    const T* x, const long long* target, const T* weight, int weighted, T* y,
    typename Wide<T>::type* parts, long long n, long long classes, long long inner,
    long long ignored, int reduction, long long* word, int op) {
    typedef typename Wide<T>::type W;
    long long stride = (long long)gridDim.x * blockDim.x;
    W sum = 0, weights = 0;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
        long long t = target[i];
        W factor = weight_of(weight, weighted, t, classes, ignored), value = factor;
        if (t != ignored && place_of(t, classes, 0) < 0)
            flag(word, op, t, classes);
        else if (t != ignored)
            value *= -wide(x[(i / inner * classes + t) * inner + i % inner]);
        if (reduction == NONE)
            y[i] = narrow<T>(value);
        else
            sum += value, weights += factor;
    }
    if (reduction == NONE) return;
    sum = over_block(sum, Add(), (W)0);
    weights = over_block(weights, Add(), (W)0);
    if (threadIdx.x) return;
    if (gridDim.x > 1)
        parts[blockIdx.x] = sum, parts[gridDim.x + blockIdx.x] = weights;
    else
        y[0] = narrow<T>(reduction == MEAN ? sum / weights : sum);
}

// The sum of this thread's share of the weights of n samples.
template <typename T>
__device__ __forceinline__ typename Wide<T>::type weights_of(
    const long long* target, const T* weight, int weighted, long long n, long long classes,
    long long ignored, long long first, long long stride) {
    typename Wide<T>::type weights = 0;
    for (long long i = first; i < n; i += stride)
        weights += weight_of(weight, weighted, target[i], classes, ignored);
    return weights;
}

// One partial sum of the weights of n samples from each block.
template <typename T>
__global__ void nll_weight(const long long* target, const T* weight, int weighted,
                           typename Wide<T>::type* parts, long long n, long long classes,
                           long long ignored) {
    typedef typename Wide<T>::type W;
    W weights = weights_of(target, weight, weighted, n, classes, ignored,
                           (long long)blockIdx.x * blockDim.x + threadIdx.x,
                           (long long)gridDim.x * blockDim.x);
    weights = over_block(weights, Add(), (W)0);
    if (threadIdx.x == 0) parts[blockIdx.x] = weights;
}

// This thread's share of the cotangent of x; divisions cost a fifth where `Index` has 32 bits.
template <typename Index, typename T>
__device__ __forceinline__ void nll_places(const T* g, const long long* target, const T* weight,
                                           int weighted, typename Wide<T>::type share, T* y,
                                           Index size, Index classes, Index inner,
                                           long long ignored, int reduction) {
    typedef typename Wide<T>::type W;
    Index stride = (Index)gridDim.x * blockDim.x;
    for (Index i = (Index)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += stride) {
        Index row = i / inner, sample = row / classes * inner + (i - row * inner);
        long long t = target[sample];
        W value = 0;
        if (t == (long long)(row % classes) && t != ignored)
            value = -wide(g[reduction == NONE ? sample : 0]) / share *
                    weight_of(weight, weighted, t, classes, ignored);
        y[i] = narrow<T>(value);
        if (size - i <= stride) break;  // the next i may be too large for an Index
    }
}

// The cotangent of x in nll: -weight[t] * g at the targets' places, 0 elsewhere. The mean divides by
// the sum of the weights: `count` partial sums or, without any, what each block finds by itself.
template <typename T>
__global__ void nll_reverse(const T* g, const long long* target, const T* weight, int weighted,
                            const typename Wide<T>::type* parts, long long count, T* y,
                            long long n, long long classes, long long inner, long long ignored,
                            int reduction) {
    typedef typename Wide<T>::type W;
    W share = 1;
    if (reduction == MEAN) {
        W weights = 0;
        for (long long i = threadIdx.x; i < count; i += blockDim.x) weights += parts[i];
        if (count == 0)
            weights = weights_of(target, weight, weighted, n, classes, ignored, threadIdx.x,
                                 blockDim.x);
        share = over_block(weights, Add(), (W)0);
    }
    long long size = n * classes;
    if (size <= 0xffffffffLL)
        nll_places<unsigned>(g, target, weight, weighted, share, y, size, classes, inner, ignored,
                             reduction);
    else
        nll_places<unsigned long long>(g, target, weight, weighted, share, y, size, classes, inner,
                                       ignored, reduction);
}

// The sum of `count` partial sums, divided by `divisor`, or by the sum of as many that follow them.
template <typename T>
__global__ void quotient(const typename Wide<T>::type* parts, long long count, int twice,
                         double divisor, T* y) {
    typedef typename Wide<T>::type W;
    W sum = 0, other = 0;
    for (long long i = threadIdx.x; i < count; i += blockDim.x) {
        sum += parts[i];
        if (twice) other += parts[count + i];
    }
    sum = over_block(sum, Add(), (W)0);
    other = over_block(other, Add(), (W)0);
    if (threadIdx.x == 0) y[0] = narrow<T>(twice ? sum / other : sum / (W)divisor);
}
