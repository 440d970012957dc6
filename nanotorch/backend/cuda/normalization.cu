// Standardizing each row of n numbers, s = (x - mean) / sqrt(var + eps); layer normalization, which
// is s * weight + bias; and their derivatives.
//
// kernel layer_norm: e E f d
// kernel layer_norm_reverse: e E f d
#include "numbers.cuh"
#include "rows.cuh"

// The mean of a row and 1 / sqrt(var + eps).
template <typename W> struct Statistics { W mean, scale; };

template <typename T>
__device__ __forceinline__ Statistics<typename Wide<T>::type> statistics_of(
    const Rows& place, const T* x, long long n, double eps) {
    typedef typename Wide<T>::type W;
    W sum = 0, squares = 0;
    for (long long k = place.thread; k < n; k += place.threads) sum += wide(x[k]);
    W mean = place.combined(sum, Add(), (W)0) / (W)n;
    for (long long k = place.thread; k < n; k += place.threads) {
        W centered = wide(x[k]) - mean;
        squares += centered * centered;
    }
    W var = place.combined(squares, Add(), (W)0) / (W)n;
    return Statistics<W>{mean, 1 / square_root(var + (W)eps)};
}

// s * weight + bias; without a weight or bias, whose pointer is null then, 1 or 0 in its place
template <typename T>
__global__ void __launch_bounds__(512) layer_norm(
    const T* x, const T* weight, const T* bias, T* y, long long rows, long long n, double eps,
    int group) {
    typedef typename Wide<T>::type W;
    for (Rows place(group); place.row < rows; place.row += place.stride) {
        long long first = place.row * n;
        Statistics<W> of_row = statistics_of(place, x + first, n, eps);
        for (long long k = place.thread; k < n; k += place.threads) {
            W s = (wide(x[first + k]) - of_row.mean) * of_row.scale;
            if (weight) s *= wide(weight[k]);
            y[first + k] = narrow<T>(s + (bias ? wide(bias[k]) : (W)0));
        }
    }
}

// The cotangent of x: that of standardizing, for the cotangent g * weight of s, which is computed
// anew where its pointer is null.
template <typename T>
__global__ void __launch_bounds__(512) layer_norm_reverse(
    const T* g, const T* x, const T* weight, const T* s, T* y, long long rows, long long n,
    double eps, int group) {
    typedef typename Wide<T>::type W;
    for (Rows place(group); place.row < rows; place.row += place.stride) {
        long long first = place.row * n;
        Statistics<W> of_row = statistics_of(place, x + first, n, eps);
        auto weighted = [&](long long k) {
            return wide(g[first + k]) * (weight ? wide(weight[k]) : (W)1);
        };
        auto standard = [&](long long k) {
            return s ? wide(s[first + k]) : (wide(x[first + k]) - of_row.mean) * of_row.scale;
        };
        W of_g = 0, of_products = 0;
        for (long long k = place.thread; k < n; k += place.threads) {
            of_g += weighted(k);
            of_products += weighted(k) * standard(k);
        }
        of_g = place.combined(of_g, Add(), (W)0) / (W)n;
        of_products = place.combined(of_products, Add(), (W)0) / (W)n;
        for (long long k = place.thread; k < n; k += place.threads)
            y[first + k] = narrow<T>(
                (weighted(k) - (standard(k) * of_products + of_g)) * of_row.scale);
    }
}
