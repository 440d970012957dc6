// The linear layer with one output, its loss and their gradients, by one reading of x (n, k).
//
// A block takes 32 rows at a time, each warp four of them, and keeps their elements in registers
// between the product with the weight and the one with the slope. The order of every sum follows
// from n and k alone: what is computed in one launch has the bits of what is computed in several.
//
// kernel rows_to_one: f1 f2 f3 d1 d2 d3
// kernel add_blocks: f d
#include "numbers.cuh"
#include "elementwise.cuh"

const int WARPS = 8;  // of a block
const int MOST = 8;   // groups of rows whose losses a block adds up: see elementwise.cuh

// How many lanes of a warp share a row, and how many of its elements each of them has.
template <int LANES, int EACH> struct Lanes { enum { lanes = LANES, each = EACH }; };

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
__global__ void rows_to_one(
    const T* __restrict__ x, const T* weight, const T* bias, const T* target, const T* g, T* z,
    T* slopes, T* gradients, T* sums, T* loss, T* bias_gradient, long long n, int k, int groups,
    int which, double divisor) {
    enum { LANES = Width::lanes, EACH = Width::each };
    __shared__ T row[LANES * EACH], of_rows[2][MOST][32], of_groups[2][MOST];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, within = lane % LANES;
    // Which of the warp's four rows this lane looks after.
    const int after = LANES == 8 ? (within ? -1 : lane / 8) : lane < 4 ? lane : -1;
    const T factor = target ? *g / (T)divisor : (T)0, shift = bias ? *bias : (T)0;
    T total[EACH] = {};
    if (weight)
        for (int j = threadIdx.x; j < LANES * EACH; j += 32 * WARPS)
            row[j] = j < k ? weight[j] : (T)0;
    __syncthreads();
    for (int own = 0, group = blockIdx.x; group < groups; own++, group += gridDim.x) {
        T lost = 0, slope_sum = 0;
        for (long long first = group * 32LL; first < n; first += groups * 32LL)
#pragma unroll 1
            for (int part = 0; part < 4; part += 32 / LANES) {
                const long long i = first + warp * 4 + part + lane / LANES;
                const bool here = i < n;
                T held[EACH], value = 0, slope = 0;
#pragma unroll
                for (int e = 0; e < EACH; e++) {
                    const int j = e * LANES + within;
                    held[e] = here && j < k ? x[i * k + j] : (T)0;
                }
                if (weight) {
#pragma unroll
                    for (int e = 0; e < EACH; e++) value += held[e] * row[e * LANES + within];
#pragma unroll
                    for (int distance = LANES / 2; distance > 0; distance /= 2)
                        value += __shfl_xor_sync(0xffffffffu, value, distance);
                    if (bias) value += shift;
                    if (z && here && within == 0) z[i] = value;
                }
                if (!gradients) continue;
                if (here && target) {
                    const T t = target[i];
                    slope = product(factor, slope_of(which, value, t));
                    if (slopes && within == 0) slopes[i] = slope;
                    if (after == part + lane / LANES) {
                        lost += loss_of(which, value, t);
                        slope_sum += slope;
                    }
                } else if (here)
                    slope = slopes[i];
#pragma unroll
                for (int e = 0; e < EACH; e++) total[e] += slope * held[e];
            }
        if (after >= 0) {
            of_rows[0][own][warp * 4 + after] = lost;
            of_rows[1][own][warp * 4 + after] = slope_sum;
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
            for (int e = 0; e < EACH; e++) {
                const int j = e * LANES + within;
                T sum = total[e];
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
