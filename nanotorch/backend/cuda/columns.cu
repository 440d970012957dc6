// Sums over the rows of each matrix of x (outer, rows, n), or of its products with g, for each of its n
// columns; or the extremes of the columns.
//
// kernel column_sums: ff dd ee EE ef Ef fe fE
#include "numbers.cuh"
#include "packs.cuh"

// What becomes of a column, by the numbers that fused.py passes: of its sum the root, if that is asked.
enum Result { SUM, ROOT, GREATEST, LEAST };

// y (outer, gridDim.y, n): of `portion` rows each, over the divisor. A block has `width` columns side by
// side, `each` (1, or MOST of halves) for a thread, and its threads read as many rows at once as there
// are threads for. From x and g a mean is taken off where there are `means`, of `period` results: one
// for `inner` columns that follow each other, over and over.
template <typename T, typename Y>
__global__ void column_sums(
    const T* x, const T* g, const typename Wide<T>::type* means, Y* y, long long rows, long long n,
    long long portion, long long inner, long long period, double divisor, int width, int each, int result) {
    typedef typename Wide<T>::type W;
    enum { MOST = sizeof(T) == 2 ? 4 : 1 };
    __shared__ Pack<W, MOST> sums[256];
    const int packs = width / each, together = blockDim.x / packs, row = threadIdx.x / packs;
    const long long tiles = (n + width - 1) / width, outer = blockIdx.x / tiles;
    const long long column = blockIdx.x % tiles * width + threadIdx.x % packs * each;
    const long long left = n - column < each ? n - column : each;
    x += outer * rows * n;
    if (g) g += outer * rows * n;
    const bool whole = Pack<T, MOST>::begins(x) && Pack<T, MOST>::begins(g) && n % MOST == 0 && left == MOST;
    const long long first = blockIdx.y * portion;
    const long long end = first + portion < rows ? first + portion : rows;
    auto with = [=](W sum, W a) {
        return result < GREATEST ? sum + a : result == LEAST ? -larger(-sum, -a) : larger(sum, a);
    };
    Pack<W, MOST> sum, less = {};
    for (int c = 0; c < MOST; c++) {
        sum.at[c] = result < GREATEST ? (W)0 : result == LEAST ? INFINITE(W) : -INFINITE(W);
        if (means && c < left) less.at[c] = means[(outer * n + column + c) / inner % period];
    }
    auto over_rows = [&](auto taken) {  // a loop of its own for each of the cases
        if (left > 0 && row < together)
#pragma unroll 4
            for (long long k = first + row; k < end; k += together) {
                Pack<T, MOST> a = {}, b = {};
                a.read(x + k * n + column, whole, left);
                if (g) b.read(g + k * n + column, whole, left);
                for (int c = 0; c < MOST; c++) sum.at[c] = taken(sum.at[c], wide(a.at[c]), wide(b.at[c]), c);
            }
    };
    if (result >= GREATEST) over_rows([=](W s, W a, W, int) { return with(s, a); });
    else if (means) over_rows([=](W s, W a, W b, int c) { return s + (a - less.at[c]) * (g ? b - less.at[c] : 1); });
    else if (g) over_rows([](W s, W a, W b, int) { return s + a * b; });
    else over_rows([](W s, W a, W, int) { return s + a; });
    sums[threadIdx.x] = sum;
    for (int rest = together; rest > 1; rest = (rest + 1) / 2) {
        const int half = (rest + 1) / 2;
        __syncthreads();
        if (row < rest - half)
            for (int c = 0; c < MOST; c++)
                sums[threadIdx.x].at[c] = with(sums[threadIdx.x].at[c], sums[threadIdx.x + half * packs].at[c]);
    }
    for (int c = 0; row == 0 && c < left; c++) {
        const W a = sums[threadIdx.x].at[c] / (W)divisor;
        y[(outer * gridDim.y + blockIdx.y) * n + column + c] = narrow<Y>(result == ROOT ? square_root(a) : a);
    }
}
