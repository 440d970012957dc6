// The distances (batch, m, n) of the rows of a (batch, m, k) from those of b (batch, n, k), by differences.
//
// kernel distances: e E f d
#include "numbers.cuh"

// A block has 32 rows of each, of which it keeps 32 columns at a time; a thread has 4 distances.
template <typename T>
__global__ void distances(const T* a, const T* b, T* y, long long m, long long n, long long k) {
    typedef typename Wide<T>::type W;
    __shared__ W of_a[32][33], of_b[32][33];
    const long long across = (n + 31) / 32, down = (m + 31) / 32, batch = blockIdx.x / across / down;
    const long long top = blockIdx.x / across % down * 32, first = blockIdx.x % across * 32;
    const int row = threadIdx.x / 32, column = threadIdx.x % 32;
    W sum[4] = {};
    for (long long start = column; start - column < k; start += 32) {
        for (int i = row; i < 32; i += 8) {
            of_a[i][column] = start < k && top + i < m ? wide(a[(batch * m + top + i) * k + start]) : (W)0;
            of_b[i][column] = start < k && first + i < n ? wide(b[(batch * n + first + i) * k + start]) : (W)0;
        }
        __syncthreads();
#pragma unroll 8
        for (int c = 0; c < 32; c++)
            for (int i = 0; i < 4; i++) {
                const W apart = of_a[row + 8 * i][c] - of_b[column][c];
                sum[i] += apart * apart;
            }
        __syncthreads();
    }
    for (int i = row; i < 32; i += 8)
        if (top + i < m && first + column < n)
            y[(batch * m + top + i) * n + first + column] = narrow<T>(square_root(sum[i / 8]));
}
