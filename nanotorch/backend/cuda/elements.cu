// A bias on rows, and casts.
//
// kernel add_row: e E f d
// kernel cast: eE ef ed Ee Ef Ed fe fE fd de dE df
#include "numbers.cuh"
#include "packs.cuh"

// y = x + row for each of the rows of x, which has n elements; y may be x.
template <typename T>
__global__ void add_row(const T* x, const T* row, T* y, long long n, long long width) {
    typedef typename Wide<T>::type W;
    for_packs(x, row, width, y, n, [](W a, W b, long long) { return a + b; });
}

// x in another type; float64 becomes a half by way of float32, as in PyTorch.
template <typename X, typename Y> __global__ void cast(const X* x, Y* y, long long n) {
    typedef typename Wide<Y>::type W;
    for_packs(x, (const X*)0, n, y, n,
              [](typename Wide<X>::type a, typename Wide<X>::type, long long) { return (W)a; });
}
