// Elements added up by index, in an order that never changes.
//
// An array is seen as (outer, rows, inner): the index counts rows, the rest is added whole. Every place
// gets its sum in the order of the batch, ((x + v0) + v1) + …, in float32 for float16: no launch shape
// and no race shows in the result. Atomics count and list integers alone.
//
// kernel add_first: e f d I L
// kernel add_listed: e f d I L
// kernel add_along: e f d I L
// kernel count_places:
// kernel allot_places:
// kernel list_places:
#include "numbers.cuh"
#include "checks.cuh"

typedef long long Long;

const int WARPS = 4;     // of a block that adds; each of its warps works alone
const int AHEAD = 8;     // loads of 32 indices that a warp has under way at once
const int TOGETHER = 8;  // values of a column that are loaded before they are added, in order
const int LISTED = 512;  // positions that a warp sorts in shared memory; at least 32 * AHEAD
const unsigned ALL = 0xffffffffu;

// sum + the values of one column at n positions, in this order; `inner` lies between two positions.
template <typename T, typename W>
__device__ __noinline__ W add_positions(
    W sum, const T* __restrict__ column, Long inner, const int* positions, int n)
{
    for (int t = 0; t < n; t += TOGETHER) {
        T value[TOGETHER];
#pragma unroll
        for (int u = 0; u < TOGETHER; u++)
            if (t + u < n) value[u] = column[positions[t + u] * inner];
#pragma unroll
        for (int u = 0; u < TOGETHER; u++)
            if (t + u < n) sum = (W)(sum + (W)value[u]);
    }
    return sum;
}

// sum + the values of one column wherever the index, from position `from` on, names the place.
// The warp reads the index together and queues what it finds in order.
template <typename T, typename W>
__device__ __noinline__ W add_matching(
    W sum, const T* column, Long inner, const Long* __restrict__ index, int wraps, Long rows, Long place,
    Long from, Long count, int* queue, bool active)
{
    const int lane = threadIdx.x % 32;
    for (Long base = from / 32 * 32; base < count; base += 32 * AHEAD) {
        bool here[AHEAD];
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            const Long j = base + 32 * k + lane;
            here[k] = j >= from && j < count && place_of(index[j], rows, wraps) == place;
        }
        int n = 0;
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            if (base + 32 * k >= count) continue;
            const unsigned found = __ballot_sync(ALL, here[k]);
            if (here[k])
                queue[n + __popc(found & ((1u << lane) - 1))] = (int)(base + 32 * k + lane);
            n += __popc(found);
        }
        __syncwarp();
        if (active) sum = add_positions(sum, column, inner, queue, n);
        __syncwarp();
    }
    return sum;
}

// out (outer, rows, inner) += values (outer, count, inner) at index (count). A warp per position of
// the index and 32 columns: the first of its place adds up all of them, the others have nothing to do.
template <typename T>
__global__ void add_first(
    T* out, const T* values, const Long* index, Long* word, int op, int wraps, Long outer, Long count,
    Long rows, Long inner)
{
    typedef typename Wide<T>::type W;
    __shared__ int queues[WARPS][32 * AHEAD];
    const int lane = threadIdx.x % 32;
    const Long columns = outer * inner, tiles = (columns + 31) / 32;
    const Long warp = (Long)blockIdx.x * WARPS + threadIdx.x / 32;
    const Long i = warp / tiles, column = warp % tiles * 32 + lane;
    if (i >= count) return;
    const Long place = place_of(index[i], rows, wraps);
    if (place < 0) {
        if (column == 0) flag(word, op, index[i], rows);
        return;
    }
    for (Long base = 0; base < i; base += 32 * AHEAD) {
        bool earlier = false;
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            const Long j = base + 32 * k + lane;
            earlier |= j < i && place_of(index[j], rows, wraps) == place;
        }
        if (__any_sync(ALL, earlier)) return;
    }
    const bool active = column < columns;
    const Long o = active ? column / inner : 0, q = active ? column % inner : 0;
    T* target = out + (o * rows + place) * inner + q;
    const W sum = add_matching<T, W>(
        active ? (W)*target : W(), values + o * count * inner + q, inner, index, wraps, rows, place, i,
        count, queues[threadIdx.x / 32], active);
    if (active) *target = narrow<T, W>(sum);
}

// How often each place is named; counts[rows] is to be 0 as well.
__global__ void count_places(
    int* counts, const Long* index, Long* word, int op, int wraps, Long count, Long rows)
{
    for (Long n = (Long)blockIdx.x * blockDim.x + threadIdx.x; n < count;
         n += (Long)gridDim.x * blockDim.x) {
        const Long place = place_of(index[n], rows, wraps);
        if (place < 0)
            flag(word, op, index[n], rows);
        else
            atomicAdd(&counts[place], 1);
    }
}

// A stretch of the list for each place, in any order; counts[rows] counts how much is taken.
__global__ void allot_places(int* ends, int* counts, Long rows)
{
    const int lane = threadIdx.x % 32;
    const Long place = (Long)blockIdx.x * blockDim.x + threadIdx.x;
    const int own = place < rows ? counts[place] : 0;
    int upto = own;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const int below = __shfl_up_sync(ALL, upto, distance);
        if (lane >= distance) upto += below;
    }
    int start = 0;
    if (lane == 31 && upto) start = atomicAdd(&counts[rows], upto);
    start = __shfl_sync(ALL, start, 31);
    if (place < rows) ends[place] = start + upto - own;
}

// The positions that name each place, in any order; moves the start of its stretch to the end.
__global__ void list_places(int* list, int* ends, const Long* index, int wraps, Long count, Long rows)
{
    for (Long n = (Long)blockIdx.x * blockDim.x + threadIdx.x; n < count;
         n += (Long)gridDim.x * blockDim.x) {
        const Long place = place_of(index[n], rows, wraps);
        if (place >= 0) list[atomicAdd(&ends[place], 1)] = (int)n;
    }
}

// The sums of add_first out of the lists. The warp at the first entry of a stretch sorts it; a place
// that is named more than LISTED times is looked for in the whole index, in order.
template <typename T>
__global__ void add_listed(
    T* out, const T* values, const Long* index, const int* list, const int* ends, const int* counts,
    int wraps, Long outer, Long count, Long rows, Long inner)
{
    typedef typename Wide<T>::type W;
    __shared__ int unsorted_lists[WARPS][LISTED], sorted_lists[WARPS][LISTED];
    int* unsorted = unsorted_lists[threadIdx.x / 32];
    int* sorted = sorted_lists[threadIdx.x / 32];
    const int lane = threadIdx.x % 32;
    const Long columns = outer * inner, tiles = (columns + 31) / 32;
    const Long warp = (Long)blockIdx.x * WARPS + threadIdx.x / 32;
    const Long first = warp / tiles, column = warp % tiles * 32 + lane;
    if (first >= counts[rows]) return;
    const Long place = place_of(index[list[first]], rows, wraps);
    const int n = counts[place];
    if (first != ends[place] - n) return;
    const bool active = column < columns;
    const Long o = active ? column / inner : 0, q = active ? column % inner : 0;
    T* target = out + (o * rows + place) * inner + q;
    values += o * count * inner + q;
    W sum = active ? (W)*target : W();
    if (n <= LISTED) {
        for (int k = lane; k < n; k += 32) unsorted[k] = list[first + k];
        __syncwarp();
        for (int k = lane; k < n; k += 32) {
            int rank = 0;
            for (int m = 0; m < n; m++) rank += unsorted[m] < unsorted[k];
            sorted[rank] = unsorted[k];
        }
        __syncwarp();
        if (active) sum = add_positions(sum, values, inner, sorted, n);
    } else {
        sum = add_matching<T, W>(
            sum, values, inner, index, wraps, rows, place, 0, count, unsorted, active);
    }
    if (active) *target = narrow<T, W>(sum);
}

// out (outer, rows, inner, parts)[o, index[o, i, q], q] += values (outer, length, inner, parts)
// [o, i, q]. A thread per column, which no other column meets, walks along `length`.
template <typename T>
__global__ void add_along(
    typename Wide<T>::type* out, const T* __restrict__ values, const Long* __restrict__ index,
    Long* word, int op, int wraps, Long columns, Long length, Long rows, Long inner, Long parts)
{
    typedef typename Wide<T>::type W;
    const Long column = (Long)blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= columns) return;
    const Long part = column % parts, q = column / parts % inner, o = column / parts / inner;
#pragma unroll 4
    for (Long i = 0; i < length; i++) {
        const Long n = (o * length + i) * inner + q, place = place_of(index[n], rows, wraps);
        if (place < 0) {
            if (part == 0) flag(word, op, index[n], rows);
            continue;
        }
        W* target = out + ((o * rows + place) * inner + q) * parts + part;
        *target = (W)(*target + (W)values[n * parts + part]);
    }
}
