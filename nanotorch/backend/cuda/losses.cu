// Losses and their derivatives. Sums are taken in an order that depends on the sizes alone.
//
// kernel loss: e E f d
// kernel loss_reverse: e E f d
// kernel nll: e E f d
// kernel nll_reverse: e E f d
// kernel nll_weight: e E f d
// kernel quotient: e E f d
#include "checks.cuh"
#include "numbers.cuh"
#include "elementwise.cuh"

// What a loss does with its elements: the numbers that fused.py passes.
enum Reduction { NONE, MEAN, SUM };

// y: n losses; or their sum or mean; or, from several blocks, the sum of each group in `parts`.
template <typename T>
__global__ void __launch_bounds__(1024) loss(
    const T* x, const T* target, T* y, typename Wide<T>::type* parts, long long n, int groups,
    int which, int reduction) {
    typedef typename Wide<T>::type W;
    const long long first = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (reduction == NONE) {
        for (long long i = first; i < n; i += (long long)gridDim.x * blockDim.x)
            y[i] = narrow<T>(loss_of(which, wide(x[i]), wide(target[i])));
        return;
    }
    __shared__ W sums[256];  // of one block: no more than 8192 elements
    for (int group = first / 32; group < groups; group += gridDim.x * blockDim.x / 32) {
        W sum = 0;
        for (long long i = group * 32LL + threadIdx.x % 32; i < n; i += groups * 32LL)
            sum += loss_of(which, wide(x[i]), wide(target[i]));
        sum = over_warp(sum, Add());
        if (threadIdx.x % 32 == 0) (gridDim.x > 1 ? parts : sums)[group] = sum;
    }
    if (gridDim.x > 1) return;
    __syncthreads();
    W sum = over_block(threadIdx.x < groups ? sums[threadIdx.x] : (W)0, Add(), (W)0);
    if (threadIdx.x == 0) y[0] = narrow<T>(reduction == MEAN ? sum / (W)n : sum);
}

// g / divisor * slope, with a g of each element or one for all
template <typename T>
__global__ void loss_reverse(const T* g, const T* x, const T* target, T* y, long long n, int which,
                             int each, double divisor) {
    typedef typename Wide<T>::type W;
    long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)
        y[i] = narrow<T>(product(wide(g[each ? i : 0]) / (W)divisor,
                                 slope_of(which, wide(x[i]), wide(target[i]))));
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
