// Sums over the rows of x (rows, n), or of its products with g, for each of its n columns.
//
// kernel column_sums: ff dd ee EE ef Ef fe fE
#include "numbers.cuh"
#include "packs.cuh"

// y (gridDim.y, n): the sums over `portion` rows each. A block has `width` columns side by side, `each`
// (1, or MOST of halves) for a thread, and its threads read as many rows at once as there are threads
// for.
template <typename T, typename Y>
__global__ void column_sums(const T* x, const T* g, Y* y, long long rows, long long n,
                            long long portion, int width, int each) {
    typedef typename Wide<T>::type W;
    enum { MOST = sizeof(T) == 2 ? 4 : 1 };
    __shared__ Pack<W, MOST> sums[256];
    const int packs = width / each, together = blockDim.x / packs, row = threadIdx.x / packs;
    const long long column = (long long)blockIdx.x * width + threadIdx.x % packs * each;
    const long long left = n - column < each ? n - column : each;
    const bool whole = Pack<T, MOST>::begins(x) && Pack<T, MOST>::begins(g) && n % MOST == 0 && left == MOST;
    const long long first = blockIdx.y * portion;
    const long long end = first + portion < rows ? first + portion : rows;
    Pack<W, MOST> sum = {};
    if (left > 0 && row < together)
#pragma unroll 4
        for (long long k = first + row; k < end; k += together) {
            Pack<T, MOST> a = {}, b = {};
            a.read(x + k * n + column, whole, left);
            if (g) b.read(g + k * n + column, whole, left);
            for (int c = 0; c < MOST; c++)
                sum.at[c] += wide(a.at[c]) * (g ? wide(b.at[c]) : (W)1);
        }
    sums[threadIdx.x] = sum;
    for (int rest = together; rest > 1; rest = (rest + 1) / 2) {
        const int half = (rest + 1) / 2;
        __syncthreads();
        if (row < rest - half)
            for (int c = 0; c < MOST; c++)
                sums[threadIdx.x].at[c] += sums[threadIdx.x + half * packs].at[c];
    }
    for (int c = 0; row == 0 && c < left; c++)
        y[blockIdx.y * n + column + c] = narrow<Y>(sums[threadIdx.x].at[c]);
}
