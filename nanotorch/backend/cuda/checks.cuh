// Indices that lie outside of their tensor: noted where `checks.py` looks, and never followed.

// Notes it in the device's word {op, index, size}, which holds zeros until the first such index.
// The op is its number in `checks.py`; 0 for an index that has been noted already.
__device__ __forceinline__ void flag(long long* word, int op, long long index, long long size) {
    if (op == 0) return;
    if (atomicCAS((unsigned long long*)word, 0ULL, (unsigned long long)op) == 0ULL) {
        word[1] = index;
        word[2] = size;
    }
}

// Where an index lies among `size` places, a negative one counted from the end if it `wraps`; -1 if
// it lies outside.
__device__ __forceinline__ long long place_of(long long index, long long size, int wraps) {
    if (wraps && index < 0) index += size;
    return index < 0 || index >= size ? -1 : index;
}
