// Numbers as kernels compute with them, and sums over a block in an order that never changes.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define INFINITE(T) ((T)__longlong_as_double(0x7ff0000000000000LL))
#define NOT_A_NUMBER(T) ((T)__longlong_as_double(0x7ff8000000000000LL))

// What sums and functions of a T are computed in.
template <typename T> struct Wide { typedef T type; };
template <> struct Wide<__half> { typedef float type; };
template <> struct Wide<__nv_bfloat16> { typedef float type; };

__device__ __forceinline__ float wide(__half x) { return __half2float(x); }
__device__ __forceinline__ float wide(__nv_bfloat16 x) { return __bfloat162float(x); }
template <typename T> __device__ __forceinline__ T wide(T x) { return x; }

template <typename T, typename W> __device__ __forceinline__ T narrow(W x) { return (T)x; }
template <> __device__ __forceinline__ __half narrow<__half, float>(float x) {
    return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16, float>(float x) {
    return __float2bfloat16_rn(x);
}

// One name for C's functions of float and of double.
#define FUNCTION(name, of_float, of_double)                                              \
    __device__ __forceinline__ float name(float x) { return of_float(x); }               \
    __device__ __forceinline__ double name(double x) { return of_double(x); }
FUNCTION(exponential, expf, exp)
FUNCTION(logarithm, logf, log)
FUNCTION(logarithm1p, log1pf, log1p)
FUNCTION(square_root, sqrtf, sqrt)

// A product that is rounded, where the compiler might make one operation of it and a sum.
__device__ __forceinline__ float product(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double product(double a, double b) { return __dmul_rn(a, b); }

// The larger of two numbers, and NaN if one of them is.
template <typename W> __device__ __forceinline__ W larger(W a, W b) {
    return a > b || a != a ? a : b;
}

struct Add {
    template <typename W> __device__ __forceinline__ W operator()(W a, W b) const { return a + b; }
};
struct Larger {
    template <typename W> __device__ __forceinline__ W operator()(W a, W b) const {
        return larger(a, b);
    }
};

// a[0] with a[1] … of all threads of a warp, or of its part of `width`, the same value in each of them.
template <typename W, typename Combine>
__device__ __forceinline__ W over_warp(W a, Combine combine, int width = 32) {
    const unsigned part = 0xffffffffu >> (32 - width) << (threadIdx.x % 32 / width * width);
    for (int distance = width / 2; distance > 0; distance /= 2)
        a = combine(a, __shfl_xor_sync(part, a, distance));
    return a;
}

// The same for all threads of a block, whose size is a multiple of 32 and at most 1024; `nothing`
// is what changes no other number. Every thread of the block has to come here.
template <typename W, typename Combine>
__device__ __forceinline__ W over_block(W a, Combine combine, W nothing) {
    __shared__ W of_warps[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    a = over_warp(a, combine);
    if (blockDim.x <= 32) return a;
    __syncthreads();  // what an earlier call left has been read by all
    if (lane == 0) of_warps[warp] = a;
    __syncthreads();
    return over_warp(lane < blockDim.x / 32 ? of_warps[lane] : nothing, combine);
}
