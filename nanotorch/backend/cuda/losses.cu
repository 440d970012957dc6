// Losses and their derivatives. Sums are taken in an order that depends on the sizes alone.
//
// kernel loss: e E f d
// kernel loss_reverse: e E f d
// kernel quotient: e E f d
#include "numbers.cuh"
#include "packs.cuh"
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
        for_packs(x, target, n, y, n, [=](W a, W t, long long) { return loss_of(which, a, t); });
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
    for_packs(x, target, n, y, n, [=](W a, W t, long long i) {
        return product(wide(g[each ? i : 0]) / (W)divisor, slope_of(which, a, t));
    });
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
