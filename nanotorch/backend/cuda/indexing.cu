// Elements read by index, and places that indices name.
//
// An array is seen as (outer, rows, inner): the index counts rows, the rest is copied whole. An index
// has elements of 64 bits, or of 32 where `narrow`.
//
// kernel take_rows: B H I L 4
// kernel take_along: B H I L
// kernel join_places:
#include "checks.cuh"

typedef long long Long;
struct alignas(16) Sixteen { Long low, high; };  // bytes

__device__ __forceinline__ Long entry(const void* index, int narrow, Long n) {
    return narrow ? ((const int*)index)[n] : ((const Long*)index)[n];
}

// --- reading --------------------------------------------------------------------------------------

// Element n of an array (outer, count, width), as a thread meets it on its way through all of them:
// it divides once, and then only adds.
struct Walk {
    Long n, outer, i, column, step, step_outer, step_i, step_column, count, width;

    __device__ __forceinline__ Walk(Long count_, Long width_) : count(count_), width(width_) {
        n = (Long)blockIdx.x * blockDim.x + threadIdx.x;
        column = n % width, i = n / width % count, outer = n / width / count;
        step = (Long)gridDim.x * blockDim.x;
        step_column = step % width, step_i = step / width % count;
        step_outer = step / width / count;
    }
    __device__ __forceinline__ void next() {
        n += step, column += step_column, i += step_i, outer += step_outer;
        if (column >= width) column -= width, i++;
        if (i >= count) i -= count, outer++;
    }
};

// out (outer, count, width) = x (outer, rows, width) at index (count)
template <typename T>
__global__ void take_rows(
    T* out, const T* x, const void* index, int narrow, Long* word, int op, int wraps, Long total,
    Long count, Long rows, Long width) {
    for (Walk at(count, width); at.n < total; at.next()) {
        const Long given = entry(index, narrow, at.i);
        Long place = place_of(given, rows, wraps);
        if (place < 0) {
            if (at.outer == 0 && at.column == 0) flag(word, op, given, rows);
            place = 0;
        }
        out[at.n] = x[(at.outer * rows + place) * width + at.column];
    }
}

// out (outer, length, inner)[o, i, q] = x (outer, rows, inner)[o, index[o, i, q], q]; or the places
// in x of what is read, where there are `places`, -1 outside.
template <typename T>
__global__ void take_along(
    T* out, const T* x, Long* places, const void* index, int narrow, Long* word, int op, int wraps,
    Long total, Long length, Long rows, Long inner) {
    for (Walk at(length, inner); at.n < total; at.next()) {
        const Long given = entry(index, narrow, at.n), row = place_of(given, rows, wraps);
        if (row < 0) flag(word, op, given, rows);
        const Long place = (at.outer * rows + (row < 0 ? 0 : row)) * inner + at.column;
        if (places) places[at.n] = row < 0 ? -1 : place;
        else out[at.n] = x[place];
    }
}

// --- places ---------------------------------------------------------------------------------------

// places = places * size + index: the indices of several dimensions become one; -1 is outside. Without
// places, indices outside are noted, for what reads or writes by CuPy's own functions.
__global__ void join_places(
    Long* places, const void* index, int narrow, Long* word, int op, int wraps, Long count, Long size,
    int first) {
    for (Long n = (Long)blockIdx.x * blockDim.x + threadIdx.x; n < count;
         n += (Long)gridDim.x * blockDim.x) {
        const Long given = entry(index, narrow, n), place = place_of(given, size, wraps);
        if (place < 0) flag(word, op, given, size);
        if (!places) continue;
        const Long before = first ? 0 : places[n];
        places[n] = place < 0 || before < 0 ? -1 : before * size + place;
    }
}
