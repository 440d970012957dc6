// Rows that are worked on one by one: each by `group` threads, a power of 2 up to a warp, or a whole block.

struct Rows {
    long long row, stride;
    int thread, threads;  // of those that share the row: which one this is, and how many they are

    __device__ __forceinline__ explicit Rows(int group) {
        row = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / group;
        stride = (long long)gridDim.x * (blockDim.x / group);
        thread = threadIdx.x % group;
        threads = group;
    }

    // `a` of all threads that share the row.
    template <typename W, typename Combine>
    __device__ __forceinline__ W combined(W a, Combine combine, W nothing) const {
        return threads <= 32 ? over_warp(a, combine, threads) : over_block(a, combine, nothing);
    }
};

// The sum of exp(x - most) over n numbers that lie `inner` apart, and the greatest of them.
template <typename T, typename W>
__device__ __forceinline__ W softmax_of(const Rows& place, const T* x, long long n, long long inner,
                                        W& most) {
    W sum = 0;
    most = -INFINITE(W);
    for (long long k = place.thread; k < n; k += place.threads) most = larger(most, wide(x[k * inner]));
    most = place.combined(most, Larger(), -INFINITE(W));
    for (long long k = place.thread; k < n; k += place.threads)
        sum += exponential(wide(x[k * inner]) - most);
    return place.combined(sum, Add(), (W)0);
}
