// Sums over the rows of x (rows, n), or of its products with g, for each of its n columns.
//
// kernel column_sums: ff dd ee EE ef Ef fe fE
#include "numbers.cuh"
#include "packs.cuh"

// y (gridDim.y, n): the sums over `portion` rows each. A block has `width` columns side by side, four
// for a thread, and its threads read as many rows at once as there are threads for.
template <typename T, typename Y>
__global__ void column_sums(const T* x, const T* g, Y* y, long long rows, long long n,
                            long long portion, int width) {
    typedef typename Wide<T>::type W;
    __shared__ Pack<W, 4> sums[256];
    const int packs = (width + 3) / 4, together = blockDim.x / packs, row = threadIdx.x / packs;
    const int within = threadIdx.x % packs * 4;
    const long long column = (long long)blockIdx.x * width + within;
    const long long left = n - column < width - within ? n - column : width - within;
    const bool whole = Pack<T, 4>::begins(x) && Pack<T, 4>::begins(g) && n % 4 == 0 && left >= 4;
    const long long first = blockIdx.y * portion;
    const long long end = first + portion < rows ? first + portion : rows;
    Pack<W, 4> sum = {};
    if (left > 0)
#pragma unroll 4
        for (long long k = first + row; k < end; k += together) {
            Pack<T, 4> a = {}, b = {};
            a.read(x + k * n + column, whole, left);
            if (g) b.read(g + k * n + column, whole, left);
            for (int c = 0; c < 4; c++)
                sum.at[c] += wide(a.at[c]) * (g ? wide(b.at[c]) : (W)1);
        }
    sums[threadIdx.x] = sum;
    for (int rest = together; rest > 1; rest = (rest + 1) / 2) {
        const int half = (rest + 1) / 2;
        __syncthreads();
        if (row < rest - half)
            for (int c = 0; c < 4; c++)
                sums[threadIdx.x].at[c] += sums[threadIdx.x + half * packs].at[c];
    }
    if (row) return;
    for (int c = 0; c < 4 && c < left; c++)
        y[blockIdx.y * n + column + c] = narrow<Y>(sums[threadIdx.x].at[c]);
}
