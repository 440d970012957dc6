// Random numbers by Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011).
//
// philox() turns a seed and the number of a call into four words of 32 bits. Element i of a fill takes
// its words from call offset + i / N, where a call serves N elements: blocks and threads do not show.
// The state {seed, offset, ticket} lies in device memory, and each launch moves the offset on by the
// calls it used, so that every replay of a CUDA graph draws new numbers.
//
// kernel uniform: e E f d
// kernel normal: e E f d
// kernel exponentials: e E f d
// kernel bernoulli: e E f d b h i l
// kernel integers: e E f d b h i l
// kernel choice:
#include "numbers.cuh"
#include "packs.cuh"

typedef unsigned int Word;
typedef unsigned long long Long;

struct Words { Word w[4]; };
struct Start { Long seed, offset; };

__device__ Words philox(Long seed, Long call) {
    Word key0 = (Word)seed, key1 = (Word)(seed >> 32);
    Word c0 = (Word)call, c1 = (Word)(call >> 32), c2 = 0, c3 = 0;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const Long a = 0xD2511F53ULL * c0, b = 0xCD9E8D57ULL * c2;
        c0 = (Word)(b >> 32) ^ c1 ^ key0;
        c2 = (Word)(a >> 32) ^ c3 ^ key1;
        c1 = (Word)b;
        c3 = (Word)a;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return Words{{c0, c1, c2, c3}};
}

// Where the stream stands. The last block to have read it moves it on: no other looks after that.
__device__ Start begin(Long *state, Long calls) {
    __shared__ Long seen[2];
    if (threadIdx.x == 0) {
        seen[0] = state[0];
        seen[1] = state[1];
        __threadfence();
        Word *ticket = (Word *)(state + 2);
        if (atomicAdd(ticket, 1u) == gridDim.x - 1) {
            *ticket = 0;
            state[1] = seen[1] + calls;
        }
    }
    __syncthreads();
    return Start{seen[0], seen[1]};
}

// out[i] = draw(words of its call, i) for all i below count, N of them at a time.
template <int N, typename T, typename Draw>
__device__ void fill(T *out, Long count, Long *state, Draw draw) {
    const Long calls = (count + N - 1) / N, stride = (Long)gridDim.x * blockDim.x;
    const Start start = begin(state, calls);
    const bool aligned = Pack<T, N>::begins(out);
    for (Long call = (Long)blockIdx.x * blockDim.x + threadIdx.x; call < calls; call += stride) {
        const Long first = call * N;
        const Words words = philox(start.seed, start.offset + call);
        Pack<T, N> values;
        draw(words, first, values.at);
        values.write(out + first, aligned && first + N <= count, count - first);
    }
}

// How many elements a call serves, and the bits of a uniform that T holds exactly.
template <typename T> struct Kind { enum { each = 4, bits = 24 }; };
template <> struct Kind<double> { enum { each = 2, bits = 53 }; };
template <> struct Kind<__half> { enum { each = 4, bits = 11 }; };
template <> struct Kind<__nv_bfloat16> { enum { each = 4, bits = 8 }; };

__device__ Long pair(const Words &words, int i) {
    return (Long)words.w[2 * i] << 32 | words.w[2 * i + 1];
}

// u in [0, 1), of so many bits; the last argument says whether in float or double.
template <typename R> __device__ R lower_unit(const Words &words, int i, int bits, R) {
    if constexpr (sizeof(R) == 8) return (R)(pair(words, i) >> 11) * 0x1p-53;
    else return (R)(words.w[i] >> (32 - bits)) / (R)(1 << bits);
}

// u in (0, 1], finer near 0: what a logarithm takes.
template <typename R> __device__ R upper_unit(const Words &words, int i, R) {
    if constexpr (sizeof(R) == 8) return fma((R)(pair(words, i) >> 11), 0x1p-53, 0x1p-54);
    else return fmaf((R)words.w[i], 0x1p-32f, 0x1p-33f);
}

__device__ float fused(float a, float b, float c) { return fmaf(a, b, c); }
__device__ double fused(double a, double b, double c) { return fma(a, b, c); }
__device__ void half_turns(float x, float *sine, float *cosine) { sincospif(x, sine, cosine); }
__device__ void half_turns(double x, double *sine, double *cosine) { sincospi(x, sine, cosine); }

// x = low + u (high - low); rounding may reach the upper bound, which is excluded.
template <typename T>
__global__ void uniform(T *out, long long count, Long *state, double low, double high) {
    typedef typename Wide<T>::type Real;
    const Real from = (Real)low, width = (Real)high - (Real)low, to = wide(narrow<T>((Real)high));
    fill<Kind<T>::each>(out, count, state, [=](const Words &words, Long, T *values) {
        for (int i = 0; i < Kind<T>::each; i++) {
            const T x = narrow<T>(fused(lower_unit(words, i, Kind<T>::bits, from), width, from));
            values[i] = wide(x) >= to ? narrow<T>(from) : x;
        }
    });
}

// x = mean + std sqrt(-2 log u) (cos, sin)(2 pi v), by pairs (Box and Muller 1958).
template <typename T>
__global__ void normal(T *out, long long count, Long *state, double mean, double std) {
    typedef typename Wide<T>::type Real;
    const Real centre = (Real)mean, scale = (Real)std;
    fill<Kind<T>::each>(out, count, state, [=](const Words &words, Long, T *values) {
        for (int i = 0; i < Kind<T>::each; i += 2) {
            const Real radius = square_root((Real)-2 * logarithm(upper_unit(words, i, centre)));
            Real sine, cosine;
            half_turns(2 * lower_unit(words, i + 1, 24, centre), &sine, &cosine);
            values[i] = narrow<T>(fused(radius * cosine, scale, centre));
            values[i + 1] = narrow<T>(fused(radius * sine, scale, centre));
        }
    });
}

// x = -log(u) / rate, which is never 0.
template <typename T>
__global__ void exponentials(T *out, long long count, Long *state, double rate) {
    typedef typename Wide<T>::type Real;
    const Real scale = (Real)(1.0 / rate), least = (Real)(sizeof(Real) == 8 ? 0x1p-53 : 0x1p-24);
    fill<Kind<T>::each>(out, count, state, [=](const Words &words, Long, T *values) {
        for (int i = 0; i < Kind<T>::each; i++) {
            const Real u = upper_unit(words, i, scale);
            values[i] = narrow<T>(scale * (u >= 1 - least ? least : -logarithm(u)));
        }
    });
}

// x = value with a chance, the same for all or that of each element, else 0.
template <typename T>
__global__ void bernoulli(
    T *out, long long count, Long *state, const double *chances, double chance, double value) {
    const T chosen = narrow<T>((typename Wide<T>::type)value);
    fill<4>(out, count, state, [=](const Words &words, Long first, T *values) {
        for (int i = 0; i < 4; i++) {
            const bool own = chances && (long long)first + i < count;
            const double limit = (own ? chances[first + i] : chance) * 0x1p32;
            values[i] = (double)words.w[i] < limit ? chosen : narrow<T>(0.0f);
        }
    });
}

// x = low + floor(u width), u of 64 bits; a width of 0 stands for 2**64.
template <typename T>
__global__ void integers(T *out, long long count, Long *state, long long low, Long width) {
    fill<2>(out, count, state, [=](const Words &words, Long, T *values) {
        for (int i = 0; i < 2; i++) {
            const Long u = pair(words, i), offset = width ? __umul64hi(u, width) : u;
            values[i] = narrow<T>((typename Wide<T>::type)(long long)((Long)low + offset));
        }
    });
}

// x = the first place of its row where the running sum of weights exceeds u times the whole.
__global__ void choice(
    long long *out, long long count, Long *state, const double *running, long long length,
    long long samples) {
    fill<2>(out, count, state, [=](const Words &words, Long first, long long *values) {
        for (int i = 0; i < 2 && (long long)first + i < count; i++) {
            const double *row = running + (first + i) / samples * length;
            const double whole = row[length - 1], x = whole * lower_unit(words, i, 53, 0.0);
            long long from = 0, to = length - 1;
            while (from < to) {
                const long long middle = (from + to) / 2;
                if (row[middle] > x || row[middle] >= whole)
                    to = middle;
                else
                    from = middle + 1;
            }
            values[i] = from;
        }
    });
}
