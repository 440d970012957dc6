// N neighbouring elements, read and written sixteen bytes at a time where the array is `whole` there:
// a pack begins at this place and ends within the array. Else one by one, as many as are `left`.
template <typename T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Pack {
    T at[N];

    static __device__ __forceinline__ bool begins(const T* a) {
        return (unsigned long long)a % alignof(Pack) == 0;
    }
    __device__ __forceinline__ void read(const T* a, bool whole, long long left) {
        if (whole) *this = *(const Pack*)a;
        else for (int k = 0; k < N && k < left; k++) at[k] = a[k];
    }
    __device__ __forceinline__ void write(T* a, bool whole, long long left) const {
        if (whole) *(Pack*)a = *this;
        else for (int k = 0; k < N && k < left; k++) a[k] = at[k];
    }
};

// y[i] = function(x[i], g[i % period], i) in the wide types for all n elements; 0 in place of g's
// where it is null.
template <typename X, typename Y, typename Function>
__device__ __forceinline__ void for_packs(const X* x, const X* g, long long period, Y* y,
                                          long long n, Function function) {
    constexpr int N = sizeof(X) == 2 || sizeof(Y) == 2 ? 8 : 4;  // as fused.py counts threads
    typedef Pack<X, N> Input;
    typedef Pack<Y, N> Output;
    const bool aligned = Input::begins(x) && Input::begins(g) && Output::begins(y) &&
                         (period == n || period % N == 0);
    auto place = [=](long long i) { return period == n ? i : i % period; };
    const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    for (long long i = N * thread; i < n; i += (long long)N * gridDim.x * blockDim.x) {
        const bool whole = aligned && i + N <= n;
        Input a, b;
        Output c;
        a.read(x + i, whole, n - i);
        if (g && whole) b.read(g + place(i), true, N);
        else if (g) for (int k = 0; k < N && i + k < n; k++) b.at[k] = g[place(i + k)];
#pragma unroll
        for (int k = 0; k < N; k++)
            if (whole || i + k < n)
                c.at[k] = narrow<Y>(function(wide(a.at[k]), g ? wide(b.at[k]) : 0, i + k));
        c.write(y + i, whole, n - i);
    }
}
