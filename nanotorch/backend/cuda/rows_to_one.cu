// The linear layer with one output, its loss and their gradients, by one reading of x (n, k).
//
// A block takes 32 rows at a time, each warp four of them (all 32 of short ones), and keeps their
// elements in registers between the product with the weight and the one with the slope. The order of every sum follows
// from n and k alone: what is computed in one launch has the bits of what is computed in several.
//
// kernel rows_to_one: f1 f2 f3 d1 d2 d3
// kernel add_blocks: f d
#include "numbers.cuh"
#include "elementwise.cuh"
#include "packs.cuh"

const int WARPS = 8;  // of a block
const int MOST = 8;   // groups of rows whose losses a block adds up: see elementwise.cuh

// How many lanes of a warp share a row, how many rows they have at once, and how many elements of
// each row a lane has.
template <int LANES, int ROWS, int EACH> struct Lanes {
    enum { lanes = LANES, rows = ROWS, each = EACH };
    // Blocks of 256 threads that a multiprocessor has registers for: 1024 bytes are one's of each.
    template <typename T> static constexpr int blocks() {
        return 1024 / (EACH * (ROWS + 1) * sizeof(T) + 96);
    }
};

// The loss and the sum of the slopes, of which the threads of a block have parts.
template <typename T>
__device__ __forceinline__ void finish(T lost, T slopes, T* loss, T* bias_gradient, double divisor) {
    lost = over_block(lost, Add(), (T)0), slopes = over_block(slopes, Add(), (T)0);
    if (threadIdx.x) return;
    *loss = lost / (T)divisor;
    if (bias_gradient) *bias_gradient = slopes;
}

// Each where its pointer is not null: z (n) = x @ weight + bias; `slopes` (n) of the losses of z and
// the targets, or those that are given; their products with x, summed over the rows of each block, in
// `gradients` (gridDim.x, k). From one block `loss` and `bias_gradient` have the loss and the sum of
// the slopes; from several `sums` (2, groups) has those of each group.
template <typename T, typename Width>
__global__ void __launch_bounds__(256, Width::template blocks<T>()) rows_to_one(
    const T* __restrict__ x, const T* weight, const T* bias, const T* target, const T* g, T* z,
    T* slopes, T* gradients, T* sums, T* loss, T* bias_gradient, long long n, int k, int groups,
    int which, double divisor) {
    enum { LANES = Width::lanes, ROWS = Width::rows, SIZE = 16 / sizeof(T), APART = 32 / LANES };
    enum { PACKS = Width::each / SIZE, ALL = ROWS * APART == 32 };  // ALL: a warp takes all 32 rows
    __shared__ Pack<T, SIZE> weights[LANES * PACKS];
    __shared__ T of_rows[2][MOST][32], of_groups[2][MOST];
    T* const row = weights[0].at;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, within = lane % LANES;
    // Of the rows at once, the one whose loss and slope this lane computes.
    const int mine = within % ROWS, above = lane / LANES + (ALL ? 0 : warp * 4);
    const bool aligned = k % SIZE == 0 && Pack<T, SIZE>::begins(x);
    const T factor = target ? *g / (T)divisor : (T)0, shift = bias ? *bias : (T)0;
    Pack<T, SIZE> held[ROWS][PACKS], total[PACKS] = {};
    if (weight)
        for (int j = threadIdx.x; j < LANES * Width::each; j += 32 * WARPS)
            row[j] = j < k ? weight[j] : (T)0;
    __syncthreads();
    for (int own = ALL ? warp : 0; blockIdx.x + own * gridDim.x < groups; own += ALL ? WARPS : 1) {
        const int group = blockIdx.x + own * gridDim.x;
        T lost = 0, slope_sum = 0;
        for (long long first = group * 32LL; first < n; first += groups * 32LL)
#pragma unroll 1
            for (int part = 0; part < 4; part += ALL ? 4 : ROWS) {
                const long long start = first + part + above, i = start + mine * APART;
                const bool here = i < n, alone = within / ROWS == part / ROWS;  // of the row's lanes
                T value = 0, slope = 0;
#pragma unroll
                for (int r = 0; r < ROWS; r++)
#pragma unroll
                    for (int p = 0; p < PACKS; p++) {
                        const long long other = start + r * APART;
                        const int j = (p * LANES + within) * SIZE, left = other < n ? k - j : 0;
                        held[r][p] = {};
                        held[r][p].read(x + other * k + j, aligned && left > 0, left);
                    }
#pragma unroll
                for (int r = 0; weight && r < ROWS; r++) {
                    T sum = 0;
#pragma unroll
                    for (int p = 0; p < PACKS; p++)
#pragma unroll
                        for (int e = 0; e < SIZE; e++)
                            sum += held[r][p].at[e] * weights[p * LANES + within].at[e];
#pragma unroll
                    for (int distance = LANES / 2; distance > 0; distance /= 2)
                        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
                    if (r == mine) value = sum;
                }
                if (bias) value += shift;
                if (z && here && alone) z[i] = value;
                if (!gradients) continue;
                if (here && target) {
                    const T t = target[i];
                    slope = product(factor, slope_of(which, value, t));
                    if (slopes && alone) slopes[i] = slope;
                    if (alone) {
                        lost += loss_of(which, value, t);
                        slope_sum += slope;
                    }
                } else if (here)
                    slope = slopes[i];
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    const T s = __shfl_sync(0xffffffffu, slope, r, LANES);
#pragma unroll
                    for (int p = 0; p < PACKS; p++)
#pragma unroll
                        for (int e = 0; e < SIZE; e++) total[p].at[e] += s * held[r][p].at[e];
                }
            }
        if (ALL || lane < 4) {
            const int number = above + (ALL ? mine * APART : lane);
            of_rows[0][own][number] = lost, of_rows[1][own][number] = slope_sum;
        }
    }
    if (!gradients) return;
    __syncthreads();
    const int group = blockIdx.x + warp * gridDim.x;
    if (target && group < groups)
        for (int what = 0; what < 2; what++) {
            const T sum = over_warp(of_rows[what][warp][lane], Add());
            if (lane == 0)
                *(gridDim.x > 1 ? &sums[what * groups + group] : &of_groups[what][group]) = sum;
        }
    for (int turn = 0; turn < WARPS; turn++) {
        if (warp == turn)
#pragma unroll
            for (int e = 0; e < Width::each; e++) {
                const int j = (e / SIZE * LANES + within) * SIZE + e % SIZE;
                T sum = total[e / SIZE].at[e % SIZE];
                for (int distance = LANES; distance < 32; distance *= 2)
                    sum += __shfl_xor_sync(0xffffffffu, sum, distance);
                if (lane < LANES && j < k) row[j] = turn ? row[j] + sum : sum;
            }
        __syncthreads();
    }
    for (int j = threadIdx.x; j < k; j += 32 * WARPS)
        gradients[(long long)blockIdx.x * k + j] = row[j];
    if (!target || gridDim.x > 1) return;
    const bool one = threadIdx.x < groups;
    finish(one ? of_groups[0][threadIdx.x] : (T)0, one ? of_groups[1][threadIdx.x] : (T)0, loss,
           bias_gradient, divisor);
}

// gradient (k): the sums over the blocks of `gradients`; and, in the last block, the loss and the
// sum of the slopes, each as losses.cu adds up its groups.
template <typename T>
__global__ void __launch_bounds__(1024) add_blocks(
    const T* gradients, T* gradient, const T* sums, T* loss, T* bias_gradient, int blocks, int k,
    int groups, double divisor) {
    __shared__ T part[32][33];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = blockIdx.x * 32;
    if (first < k) {
        T sum = 0;
        if (first + lane < k)
#pragma unroll 4
            for (int block = warp; block < blocks; block += 32)
                sum += gradients[(long long)block * k + first + lane];
        part[warp][lane] = sum;
        __syncthreads();
        sum = over_warp(part[lane][warp], Add());
        if (lane == 0 && first + warp < k) gradient[first + warp] = sum;
        return;
    }
    T sum[2] = {0, 0};
    if (threadIdx.x < 256)
        for (int i = threadIdx.x; i < groups; i += 256)
            sum[0] += sums[i], sum[1] += sums[groups + i];
    finish(sum[0], sum[1], loss, bias_gradient, divisor);
}
