// The loss of classes: -weight[t] * log p[t] for the class t of each of n samples, whose logarithms of
// probabilities lie in x (n / inner, classes, inner), or follow from what lies there by softmax; and
// its derivatives. The mean divides by the sum of the weights.
//
// kernel class_terms: e E f d
// kernel class_reverse: e E f d
// kernel class_loss: f d
#include "checks.cuh"
#include "numbers.cuh"
#include "rows.cuh"

enum Reduction { NONE, MEAN, SUM };  // the numbers that fused.py passes
const int MOST = 1024;  // samples that class_loss takes

// The classes of the samples, and what they weigh.
template <typename T> struct Targets {
    typedef typename Wide<T>::type W;
    const long long* target;
    const T* weight;
    long long classes, ignored;

    // 0 for a sample to ignore, NaN for a class that does not exist.
    __device__ __forceinline__ W weight_of(long long i) const {
        const long long t = target[i];
        if (t == ignored) return 0;
        if (place_of(t, classes, 0) < 0) return NOT_A_NUMBER(W);
        return weight ? wide(weight[t]) : (W)1;
    }
    // The weighted loss of a sample, whose logits begin at x.
    __device__ __forceinline__ W loss(long long i, const T* x, long long inner, W most, W log_sum,
                                      long long* word, int op) const {
        const long long t = target[i];
        const bool outside = t != ignored && place_of(t, classes, 0) < 0;
        if (outside) flag(word, op, t, classes);
        if (outside || t == ignored) return weight_of(i);
        return weight_of(i) * (log_sum - (wide(x[t * inner]) - most));
    }
    // The slope of class k of a sample, of probability p, or 0 for what x has the logarithms of.
    __device__ __forceinline__ T slope(long long i, long long k, W p, W g) const {
        const long long t = target[i];
        if (t == ignored || place_of(t, classes, 0) < 0) return narrow<T>((W)0);
        return narrow<T>(g * weight_of(i) * (p - (t == k ? (W)1 : (W)0)));
    }
};

// terms (4, n): of each sample the greatest logit, and the logarithm of the sum of exp(logit -
// greatest), both 0 where x has logarithms (`plain`) or is null; its loss; its weight.
template <typename T>
__global__ void __launch_bounds__(512) class_terms(
    const T* x, const long long* target, const T* weight, typename Wide<T>::type* terms, long long n,
    long long classes, long long inner, long long ignored, int plain, int group, long long* word,
    int op) {
    typedef typename Wide<T>::type W;
    const Targets<T> targets = {target, weight, classes, ignored};
    for (Rows place(group); place.row < n; place.row += place.stride) {
        const long long i = place.row;
        const T* first = x + (i / inner * classes * inner + i % inner);
        W most = 0, log_sum = 0;
        if (!plain) log_sum = logarithm(softmax_of(place, first, classes, inner, most));
        if (place.thread) continue;
        terms[i] = most, terms[n + i] = log_sum;
        terms[2 * n + i] = x ? targets.loss(i, first, inner, most, log_sum, word, op) : (W)0;
        terms[3 * n + i] = targets.weight_of(i);
    }
}

// The cotangent of x, of whose mean `share` has the sum of the weights, or as many weights as `count`
// says; of logarithms, 0 beside the targets' classes.
template <typename T>
__global__ void class_reverse(
    const T* g, const T* x, const typename Wide<T>::type* terms, const long long* target,
    const T* weight, const typename Wide<T>::type* share, long long count, T* y, long long n,
    long long classes, long long inner, long long ignored, int each) {
    typedef typename Wide<T>::type W;
    const Targets<T> targets = {target, weight, classes, ignored};
    W weights = 0;
    for (long long i = threadIdx.x; i < count; i += blockDim.x) weights += share[i];
    weights = count ? over_block(weights, Add(), (W)0) : (W)1;
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x; j < n * classes; j += stride) {
        const long long row = j / inner, i = row / classes * inner + (j - row * inner);
        const long long k = row % classes;
        const W p = x ? exponential((wide(x[j]) - terms[i]) - terms[n + i]) : (W)0;
        const W own = x || target[i] == k ? wide(g[each ? i : 0]) / weights : (W)0;
        y[j] = targets.slope(i, k, p, own);
    }
}

// The loss of at most MOST samples whose classes lie side by side, and the cotangent of x, by one
// block; with the sums in the order of the kernels one by one.
template <typename T>
__global__ void __launch_bounds__(1024) class_loss(
    const T* g, const T* x, const long long* target, const T* weight, T* loss, T* y, int n,
    int classes, long long ignored, int reduction, int group, long long* word, int op) {
    __shared__ T terms[4][MOST];
    const Targets<T> targets = {target, weight, classes, ignored};
    for (Rows place(group); place.row < n; place.row += place.stride) {
        const int i = place.row;
        const T* first = x + (long long)i * classes;
        T most = 0, log_sum = 0;
        log_sum = logarithm(softmax_of(place, first, classes, 1LL, most));
        if (place.thread) continue;
        terms[0][i] = most, terms[1][i] = log_sum;
        terms[2][i] = targets.loss(i, first, 1, most, log_sum, word, op);
        terms[3][i] = targets.weight_of(i);
    }
    __syncthreads();
    T sums[2] = {0, 0};
    for (int what = 0; what < 2; what++) {
        if (threadIdx.x < 256)
            for (int i = threadIdx.x; i < n; i += 256) sums[what] += terms[2 + what][i];
        sums[what] = over_block(sums[what], Add(), (T)0);
    }
    const T weights = reduction == MEAN ? sums[1] : (T)1, cotangent = *g / weights;
    if (threadIdx.x == 0) *loss = sums[0] / weights;
    for (int j = threadIdx.x; j < n * classes; j += blockDim.x) {
        const int i = j / classes;
        const T p = exponential((x[j] - terms[0][i]) - terms[1][i]);
        y[j] = targets.slope(i, j % classes, p, cotangent);
    }
}
