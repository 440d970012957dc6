// Functions of elements: activations and their derivatives, casts, a bias on rows. g is the cotangent
// of the output y.
//
// kernel activation: e E f d
// kernel activation_reverse: e E f d
// kernel add_row: e E f d
// kernel cast: eE ef ed Ee Ef Ed fe fE fd de dE df
#include "numbers.cuh"
#include "packs.cuh"

enum Activation { SIGMOID, RELU, SILU, GELU, GELU_BY_TANH };  // the numbers that fused.py passes

FUNCTION(error_function, erff, erf)
FUNCTION(hyperbolic_tangent, tanhf, tanh)

// 1 / (1 + exp(-x)), which is 0 where exp overflows.
template <typename W> __device__ __forceinline__ W sigmoid_of(W x) { return 1 / (1 + exponential(-x)); }

// What tanh is taken of in GELU's approximation, and its derivative.
template <typename W> __device__ __forceinline__ W inner_of(W x) {
    return (W)0.7978845608028654 * (x + (W)0.044715 * (x * x * x));
}
template <typename W> __device__ __forceinline__ W inner_slope(W x) {
    return (W)0.7978845608028654 * (1 + (W)0.134145 * (x * x));
}

// The factor that GELU multiplies x with.
template <typename W> __device__ __forceinline__ W cdf_of(W x, int approximate) {
    W z = approximate ? hyperbolic_tangent(inner_of(x)) : error_function(x * (W)0.7071067811865476);
    return (W)0.5 * (1 + z);
}

template <typename W> __device__ __forceinline__ W gelu_slope(W x, int approximate) {
    W cdf = cdf_of(x, approximate);
    if (!approximate)
        return cdf + x * (exponential(x * x * (W)-0.5) * (W)0.3989422804014327);
    W t = 2 * cdf - 1;
    return cdf + (W)0.5 * x * (1 - t * t) * inner_slope(x);
}

template <typename T>
__global__ void activation(const T* x, T* y, long long n, int which) {
    typedef typename Wide<T>::type W;
    for_packs(x, (const T*)0, n, y, n, [=](W a, W, long long) {
        if (which == RELU) return a < 0 ? (W)0 : a;
        const W b = which <= SILU ? sigmoid_of(a) : cdf_of(a, which == GELU_BY_TANH);
        return which >= SILU ? a * b : b;
    });
}

// The cotangent, given that of the output and, of sigmoid and ReLU the output, else the input.
template <typename T>
__global__ void activation_reverse(const T* g, const T* x, T* y, long long n, int which) {
    typedef typename Wide<T>::type W;
    for_packs(x, g, n, y, n, [=](W a, W h, long long) {
        if (which == SIGMOID) return h * ((1 - a) * a);
        if (which == RELU) return a <= 0 ? (W)0 : h;
        if (which == SILU) return h * (sigmoid_of(a) * (1 + a * (1 - sigmoid_of(a))));
        return h * gelu_slope(a, which == GELU_BY_TANH);
    });
}

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
