// Losses of one element, by the numbers that fused.py passes, and the order of their sums.
//
// They are summed in groups, of the rows of 32 that are `groups` rows of 32 apart: each lane of a
// warp by itself, then over the warp. Then 256 threads add up the groups.
enum Loss { BCE, MSE, ITSELF };

// -(t log sigmoid(x) + (1 - t) log(1 - sigmoid(x))); (x - t)^2; x
template <typename W> __device__ __forceinline__ W loss_of(int which, W x, W t) {
    if (which == ITSELF) return x;
    if (which == MSE) return product(x - t, x - t);
    W size = x < 0 ? x : -x;
    if (size == -INFINITE(W)) return t == (W)(x > 0) ? (W)0 : INFINITE(W);  // right or wrong
    return (larger(x, (W)0) - product(x, t)) + logarithm1p(exponential(size));
}

template <typename W> __device__ __forceinline__ W slope_of(int which, W x, W t) {
    return which == MSE ? 2 * (x - t) : 1 / (1 + exponential(-x)) - t;
}
