// Activation functions that take NumPy's functions several launches, and derivatives: g is the
// cotangent of the output y.
//
// kernel activation: e E f d
// kernel activation_reverse: e E f d
#include "numbers.cuh"

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
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
        const W a = wide(x[i]);
        W b = which <= SILU ? sigmoid_of(a) : cdf_of(a, which == GELU_BY_TANH);
        if (which >= SILU) b = a * b;
        y[i] = narrow<T>(b);
    }
}

// The cotangent, given that of the output and, of sigmoid and ReLU the output, else the input.
template <typename T>
__global__ void activation_reverse(const T* g, const T* x, T* y, long long n, int which) {
    typedef typename Wide<T>::type W;
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
        const W h = wide(g[i]), a = wide(x[i]);
        W b;
        if (which == SIGMOID) b = h * ((1 - a) * a);
        else if (which == RELU) b = a <= 0 ? (W)0 : h;
        else if (which == SILU) b = h * (sigmoid_of(a) * (1 + a * (1 - sigmoid_of(a))));
        else b = h * gelu_slope(a, which == GELU_BY_TANH);
        y[i] = narrow<T>(b);
    }
}
