// The first elements of rows in order.
//
// kernel first: e E f i
#include "numbers.cuh"
#include "order.cuh"

typedef long long Long;
typedef unsigned long long Key;

// Unsigned integers in the order of the elements; zeros are equal, and NaN is the greatest.
__device__ __forceinline__ unsigned key_of(int x) { return (unsigned)x ^ 1u << 31; }
__device__ __forceinline__ unsigned key_of(float x) {
    const unsigned bits = __float_as_uint(x), size = bits << 1;
    if (size == 0 || size > 0xff000000u) return size ? ~0u : 1u << 31;
    return bits >> 31 ? ~bits : bits | 1u << 31;
}
template <typename T> __device__ __forceinline__ unsigned key_of(T x) { return key_of(wide(x)); }

// out (outer, count, inner) = the indices of the `count` first elements of the sorted x (outer, n,
// inner), or of the last of them `alone`. A block per row. The last one is found by 6 bits at a time of
// keys that end in the index, and so are all different.
template <typename T>
__global__ void first(
    const T* x, Long* out, Long n, Long inner, int count, int padded, int descending, int alone) {
    __shared__ Key taken[4096];
    __shared__ int counts[64], filled;
    const Long q = blockIdx.x % inner, outer = blockIdx.x / inner;
    x += outer * n * inner + q, out += outer * (alone ? 1 : count) * inner + q;
    auto key = [&](Long i) {
        const unsigned own = key_of(x[i * inner]);
        return (Key)(descending ? ~own : own) << 28 | (Key)i;
    };
    Key last = 0;
    int left = count;
    for (int shift = 54; shift >= 0 && (alone || count < n); shift -= 6) {
        if (shift < 24 && (n - 1) >> shift == 0) continue;
        __syncthreads();
        if (threadIdx.x < 64) counts[threadIdx.x] = 0;
        __syncthreads();
        for (Long i = threadIdx.x; i < n; i += blockDim.x) {
            const Key own = key(i);
            if ((own ^ last) >> shift >> 6 == 0) atomicAdd(&counts[own >> shift & 63], 1);
        }
        __syncthreads();
        int digit = 0;
        while (counts[digit] < left) left -= counts[digit++];
        last |= (Key)digit << shift;
        if (counts[digit] > left || alone) continue;
        last |= ((Key)1 << shift) - 1;
        break;
    }
    if (alone && threadIdx.x == 0) *out = (Long)(last & ((1 << 28) - 1));
    if (alone) return;
    for (int i = threadIdx.x; i < padded; i += blockDim.x) taken[i] = ~(Key)0;
    if (threadIdx.x == 0) filled = 0;
    __syncthreads();
    for (Long i = threadIdx.x; i < n; i += blockDim.x)
        if (count == n || key(i) <= last) taken[count == n ? i : atomicAdd(&filled, 1)] = key(i);
    sort_block(taken, padded);
    for (int i = threadIdx.x; i < count; i += blockDim.x)
        out[i * inner] = (Long)(taken[lying(i)] & ((1 << 28) - 1));
}
