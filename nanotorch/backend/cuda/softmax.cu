// Softmax and its logarithm along one dimension of x (outer, n, inner), and their derivatives.
//
// kernel softmax: e E f d
// kernel softmax_reverse: e E f d
#include "numbers.cuh"
#include "rows.cuh"

// exp(x - max) / sum of exp(x - max); or the logarithm of it
template <typename T>
__global__ void __launch_bounds__(512) softmax(
    const T* x, T* y, long long rows, long long n, long long inner, int logarithmic, int group) {
    typedef typename Wide<T>::type W;
    for (Rows place(group); place.row < rows; place.row += place.stride) {
        long long first = inner == 1 ? place.row * n : place.row / inner * n * inner + place.row % inner;
        W most, sum = softmax_of(place, x + first, n, inner, most);
        W log_sum = logarithmic ? logarithm(sum) : (W)0;
        for (long long k = place.thread; k < n; k += place.threads) {
            W centered = wide(x[first + k * inner]) - most;
            y[first + k * inner] =
                narrow<T>(logarithmic ? centered - log_sum : exponential(centered) / sum);
        }
    }
}

// (g - sum of g * y) * y; for the logarithm g - exp(y) * sum of g
template <typename T>
__global__ void __launch_bounds__(512) softmax_reverse(
    const T* g, const T* y, T* out, long long rows, long long n, long long inner, int logarithmic,
    int group) {
    typedef typename Wide<T>::type W;
    for (Rows place(group); place.row < rows; place.row += place.stride) {
        long long first = inner == 1 ? place.row * n : place.row / inner * n * inner + place.row % inner;
        W sum = 0;
        for (long long k = place.thread; k < n; k += place.threads) {
            W a = wide(g[first + k * inner]);
            sum += logarithmic ? a : a * wide(y[first + k * inner]);
        }
        sum = place.combined(sum, Add(), (W)0);
        for (long long k = place.thread; k < n; k += place.threads) {
            long long i = first + k * inner;
            W a = wide(g[i]), b = wide(y[i]);
            out[i] = narrow<T>(logarithmic ? a - exponential(b) * sum : (a - sum) * b);
        }
    }
}
