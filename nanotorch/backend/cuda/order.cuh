// Where element i of a sorted block lies: lanes that are 8 elements apart meet in no bank of memory.
__device__ __forceinline__ int lying(int i) { return i ^ (i >> 3 & 31); }

// Sorts n elements in shared memory, n a power of two from 8 on, as a bitonic network does: each thread
// takes eight of them through three steps at a time. Every thread of the block has to come here.
template <typename E> __device__ __forceinline__ void sort_block(E* x, int n) {
    for (int size = 2; size <= n; size *= 2)
        for (int step = size / 2; step; step /= 8) {
            const int low = step >= 4 ? step / 4 : 1;  // the last of the steps, their distance
            __syncthreads();
            for (int t = threadIdx.x; t < n / 8; t += blockDim.x) {
                const int base = (t & ~(low - 1)) * 8 | (t & (low - 1)), first = lying(base);
                E at[8];
                for (int m = 0; m < 8; m++) at[m] = x[first ^ lying(m * low)];
                for (int s = 4; s; s /= 2)
                    for (int m = 0; m < 8; m++)
                        if (!(m & s) && s * low <= step) {
                            const E a = at[m], b = at[m | s];
                            const bool change = (b < a) == !((base + m * low) & size);
                            at[m] = change ? b : a, at[m | s] = change ? a : b;
                        }
                for (int m = 0; m < 8; m++) x[first ^ lying(m * low)] = at[m];
            }
        }
    __syncthreads();
}
