// Standardizing: y = (x - mean) / sqrt(var + eps) of each row of n numbers, and its derivative.
//
// kernel standardize: e E f d
// kernel standardize_reverse: e E f d
#include "numbers.cuh"
#include "rows.cuh"

// 1 / sqrt(var + eps) of a row, given its mean.
template <typename T, typename W>
__device__ __forceinline__ W scale_of(const Rows& place, const T* x, W mean, long long n,
                                      double eps) {
    W sum = 0;
    for (long long k = place.thread; k < n; k += place.threads) {
        W centered = wide(x[k]) - mean;
        sum += centered * centered;
    }
    return 1 / square_root(place.combined(sum, Add(), (W)0) / (W)n + (W)eps);
}

template <typename T>
__global__ void standardize(const T* x, T* y, long long rows, long long n, double eps, int group) {
    typedef typename Wide<T>::type W;
    for (Rows place(group); place.row < rows; place.row += place.stride) {
        long long first = place.row * n;
        W sum = 0;
        for (long long k = place.thread; k < n; k += place.threads) sum += wide(x[first + k]);
        W mean = place.combined(sum, Add(), (W)0) / (W)n;
        W scale = scale_of(place, x + first, mean, n, eps);
        for (long long k = place.thread; k < n; k += place.threads)
            y[first + k] = narrow<T>((wide(x[first + k]) - mean) * scale);
    }
}

// (g - mean of g - s * mean of g * s) / sqrt(var + eps), s the standardized x
template <typename T>
__global__ void standardize_reverse(const T* g, const T* x, const T* s, T* y, long long rows,
                                    long long n, double eps, int group) {
    typedef typename Wide<T>::type W;
    for (Rows place(group); place.row < rows; place.row += place.stride) {
        long long first = place.row * n;
        W sum = 0, of_g = 0, of_products = 0;
        for (long long k = first + place.thread; k < first + n; k += place.threads) {
            W a = wide(g[k]);
            sum += wide(x[k]);
            of_g += a;
            of_products += a * wide(s[k]);
        }
        W mean = place.combined(sum, Add(), (W)0) / (W)n;
        of_g = place.combined(of_g, Add(), (W)0) / (W)n;
        of_products = place.combined(of_products, Add(), (W)0) / (W)n;
        W scale = scale_of(place, x + first, mean, n, eps);
        for (long long k = first + place.thread; k < first + n; k += place.threads)
            y[k] = narrow<T>((wide(g[k]) - (wide(s[k]) * of_products + of_g)) * scale);
    }
}
