// Sums over the rows of x (rows, n), or of its products with g, for each of its n columns.
//
// kernel column_sums: ff dd ee EE ef Ef fe fE
#include "numbers.cuh"

// y (gridDim.y, n): the sums over `portion` rows each. A block has `width` columns side by side, and
// its threads read as many rows at once as there are threads for.
template <typename T, typename Y>
__global__ void column_sums(const T* x, const T* g, Y* y, long long rows, long long n,
                            long long portion, int width) {
    typedef typename Wide<T>::type W;
    __shared__ W sums[256];
    const int together = blockDim.x / width, row = threadIdx.x / width;
    const long long column = (long long)blockIdx.x * width + threadIdx.x % width;
    const long long first = blockIdx.y * portion;
    const long long end = first + portion < rows ? first + portion : rows;
    W sum = 0;
    if (row < together && column < n)
#pragma unroll 4
        for (long long k = first + row; k < end; k += together)
            sum += wide(x[k * n + column]) * (g ? wide(g[k * n + column]) : (W)1);
    sums[threadIdx.x] = sum;
    for (int left = together; left > 1; left = (left + 1) / 2) {
        const int half = (left + 1) / 2;
        __syncthreads();
        if (row < left - half) sums[threadIdx.x] += sums[threadIdx.x + half * width];
    }
    if (row == 0 && column < n) y[blockIdx.y * n + column] = narrow<Y>(sums[threadIdx.x]);
}
