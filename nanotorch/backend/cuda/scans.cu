// What runs along rows: the latest place of the largest (or smallest) element so far, and the
// logarithm of the sum of exponentials so far. A block per row, 256 elements at a time.
//
// kernel scan: f d
#include "numbers.cuh"

typedef long long Long;
enum Running { SUM, LARGEST, SMALLEST };

template <typename W> struct State {
    W value;
    int place;

    __device__ __forceinline__ State then(State b, int which) const {
        if (which == SUM) {
            const W most = larger(value, b.value), least = value == most ? b.value : value;
            const W more = logarithm1p(exponential(least - most));
            return {most - most == 0 ? most + more : most, 0};
        }
        const bool later = which == LARGEST ? b.value >= value : b.value <= value;
        return later || b.value != b.value ? b : *this;
    }
};

// y, or the places, (outer, n, inner) of x
template <typename T>
__global__ void scan(const T* x, T* y, Long* places, Long n, Long inner, int which) {
    __shared__ State<T> of_warps[8];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const Long row = blockIdx.x / inner * n * inner + blockIdx.x % inner;
    State<T> before = {};
    for (Long base = 0; base < n; base += 256) {
        const Long i = base + threadIdx.x;
        State<T> state = {x[row + (i < n ? i : n - 1) * inner], (int)i};
        for (int distance = 1; distance < 32; distance *= 2) {
            const State<T> earlier = {
                __shfl_up_sync(0xffffffffu, state.value, distance),
                __shfl_up_sync(0xffffffffu, state.place, distance)};
            if (lane >= distance) state = earlier.then(state, which);
        }
        __syncthreads();  // what was left here has been read by all
        if (lane == 31) of_warps[warp] = state;
        __syncthreads();
        for (int w = 0; w < 8; w++) {
            if (w == warp && (base || w)) state = before.then(state, which);
            before = base || w ? before.then(of_warps[w], which) : of_warps[w];
        }
        if (i < n && places) places[row + i * inner] = state.place;
        else if (i < n) y[row + i * inner] = state.value;
    }
}
