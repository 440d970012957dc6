// Activation functions that take NumPy's functions several launches, and derivatives: g is the
// cotangent of the output y.
//
// kernel sigmoid: e E f d
// kernel sigmoid_reverse: e E f d
// kernel relu_reverse: e E f d
// kernel silu: e E f d
// kernel silu_reverse: e E f d
// kernel gelu: e E f d
// kernel gelu_reverse: e E f d
#include "numbers.cuh"

__device__ __forceinline__ float error_function(float x) { return erff(x); }
__device__ __forceinline__ double error_function(double x) { return erf(x); }
__device__ __forceinline__ float hyperbolic_tangent(float x) { return tanhf(x); }
__device__ __forceinline__ double hyperbolic_tangent(double x) { return tanh(x); }

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

#define EACH(n)                                                                       \
    typedef typename Wide<T>::type W;                                                 \
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n;       \
         i += (long long)gridDim.x * blockDim.x)

template <typename T> __global__ void sigmoid(const T* x, T* y, long long n) {
    EACH(n) y[i] = narrow<T>(sigmoid_of((W)wide(x[i])));
}

// g * ((1 - y) * y)
template <typename T>
__global__ void sigmoid_reverse(const T* g, const T* y, T* out, long long n) {
    EACH(n) out[i] = narrow<T>(wide(g[i]) * ((1 - wide(y[i])) * wide(y[i])));
}

// 0 where y <= 0, else g
template <typename T>
__global__ void relu_reverse(const T* g, const T* y, T* out, long long n) {
    EACH(n) out[i] = wide(y[i]) <= (W)0 ? narrow<T>((W)0) : g[i];
}

// x * sigmoid(x)
template <typename T> __global__ void silu(const T* x, T* y, long long n) {
    EACH(n) y[i] = narrow<T>(wide(x[i]) * sigmoid_of((W)wide(x[i])));
}

// g * (s * (1 + x * (1 - s))), s = sigmoid(x)
template <typename T>
__global__ void silu_reverse(const T* g, const T* x, T* out, long long n) {
    EACH(n) {
        W a = wide(x[i]), s = sigmoid_of(a);
        out[i] = narrow<T>(wide(g[i]) * (s * (1 + a * (1 - s))));
    }
}

template <typename T> __global__ void gelu(const T* x, T* y, long long n, int approximate) {
    EACH(n) y[i] = narrow<T>(wide(x[i]) * cdf_of((W)wide(x[i]), approximate));
}

template <typename T>
__global__ void gelu_reverse(const T* g, const T* x, T* out, long long n, int approximate) {
    EACH(n) out[i] = narrow<T>(wide(g[i]) * gelu_slope((W)wide(x[i]), approximate));
}
