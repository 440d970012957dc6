// CUDA C on a CPU: lets g++ compile kernels as they are, and runs the threads of a block as fibers.
//
// One block after the other. A fiber runs until its kernel ends or it waits for others, so that a
// barrier that is missing shows as a wrong result. Shared memory holds NaN when a block begins. A
// barrier that some threads never reach, and writing behind dynamic shared memory, are refused.
#pragma once
#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __constant__ static
#define __shared__ static __attribute__((section("shared_memory")))

namespace cuda_on_host {

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

enum State { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, DONE };

struct Fiber {
    ucontext_t start;
    jmp_buf place;
    std::vector<char> stack;
    State state = DONE;
    unsigned mask = 0, arrived = 0;  // of the warp barrier: whom it waits for, how many it passed
    unsigned char slot[16];          // what it shows to its warp
    uint3 thread;
    bool begun = false;
};

static std::vector<Fiber*> fibers;
static Fiber* running;
static jmp_buf scheduler;
static void (*body)(void*);
static void* body_arguments;
static uint3 block_index;
static dim3 block_size, grid_size;
static unsigned char* dynamic_shared;
static const char* failure;
alignas(16) static __attribute__((section("shared_memory"), used)) unsigned char at_least_this[16];
extern "C" unsigned char __start_shared_memory[], __stop_shared_memory[];

static void yield(State state) {
    running->state = state;
    if (!_setjmp(running->place)) _longjmp(scheduler, 1);
}

static void fiber_main() {
    for (;;) {
        body(body_arguments);
        yield(DONE);
    }
}

static void resume(Fiber* fiber) {
    running = fiber;
    if (_setjmp(scheduler)) return;
    if (fiber->begun) _longjmp(fiber->place, 1);
    fiber->begun = true;
    fiber->stack.resize(1 << 16);
    getcontext(&fiber->start);
    fiber->start.uc_stack.ss_sp = fiber->stack.data();
    fiber->start.uc_stack.ss_size = fiber->stack.size();
    fiber->start.uc_link = nullptr;
    makecontext(&fiber->start, fiber_main, 0);
    setcontext(&fiber->start);
}

// Lets go of the threads whose barrier all have reached; false where nobody could go on.
static bool release(unsigned count) {
    bool some = false;
    unsigned waiting = 0, done = 0;
    for (unsigned t = 0; t < count; t++) {
        waiting += fibers[t]->state == AT_BLOCK_BARRIER;
        done += fibers[t]->state == DONE;
    }
    if (waiting == count) {
        for (unsigned t = 0; t < count; t++) fibers[t]->state = READY;
        return true;
    }
    for (unsigned first = 0; first < count; first += 32) {
        for (unsigned lane = 0; lane < 32 && first + lane < count; lane++) {
            Fiber* fiber = fibers[first + lane];
            if (fiber->state != AT_WARP_BARRIER) continue;
            bool complete = fiber->mask >> lane & 1;
            for (unsigned other = 0; other < 32 && complete; other++) {
                if (!(fiber->mask >> other & 1)) continue;
                Fiber* peer = first + other < count ? fibers[first + other] : nullptr;
                complete = peer && peer->state == AT_WARP_BARRIER && peer->mask == fiber->mask;
            }
            if (!complete) continue;
            unsigned mask = fiber->mask;
            for (unsigned other = 0; other < 32; other++)
                if (mask >> other & 1) fibers[first + other]->state = READY;
            some = true;
        }
    }
    if (!some) {
        failure = done ? "threads wait at a barrier that others, which are done, never reached"
                       : "threads of a block or a warp wait at different barriers";
    }
    return some;
}

static void run_block(unsigned count, size_t shared) {
    for (unsigned char* p = __start_shared_memory; p < __stop_shared_memory; p++) *p = 0xff;
    std::memset(dynamic_shared, 0xff, shared);
    for (unsigned t = 0; t < count; t++) {
        Fiber* fiber = fibers[t];
        fiber->state = READY;
        fiber->thread = {t % block_size.x, t / block_size.x % block_size.y,
                         t / (block_size.x * block_size.y)};
    }
    for (bool backwards = false;; backwards = !backwards) {
        unsigned done = 0;
        for (unsigned i = 0; i < count; i++) {
            Fiber* fiber = fibers[backwards ? count - 1 - i : i];
            if (fiber->state == READY) resume(fiber);
            done += fiber->state == DONE;
        }
        if (done == count || !release(count)) return;
    }
}

static const char* launch(void (*kernel)(void*), void* arguments, const unsigned* grid,
                          const unsigned* block, size_t shared) {
    static const size_t GUARD = 64;
    grid_size = dim3(grid[0], grid[1], grid[2]);
    block_size = dim3(block[0], block[1], block[2]);
    unsigned count = block[0] * block[1] * block[2];
    while (fibers.size() < count) fibers.push_back(new Fiber);
    std::vector<unsigned char> memory(shared + GUARD + 64, 0xa5);
    dynamic_shared = memory.data() + 64 - (uintptr_t)memory.data() % 64;
    std::memset(dynamic_shared + shared, 0xa5, GUARD - (dynamic_shared - memory.data()) % 64);
    body = kernel, body_arguments = arguments, failure = nullptr;
    for (unsigned z = 0; z < grid[2] && !failure; z++)
        for (unsigned y = 0; y < grid[1] && !failure; y++)
            for (unsigned x = 0; x < grid[0] && !failure; x++) {
                block_index = {x, y, z};
                run_block(count, shared);
            }
    if (failure) {  // fibers that never ended cannot be used again
        fibers.clear();
        return failure;
    }
    for (unsigned char* p = dynamic_shared + shared; p < memory.data() + memory.size(); p++)
        if (*p != 0xa5) return "it wrote behind its dynamic shared memory";
    return nullptr;
}

// The arguments as CuPy hands them over: the address of each.
template <typename... P> struct Call {
    void (*kernel)(P...);
    void** arguments;
    template <size_t... I> void run(std::index_sequence<I...>) {
        kernel(*(std::remove_reference_t<P>*)arguments[I]...);
    }
    static void entry(void* self) {
        ((Call*)self)->run(std::index_sequence_for<P...>());
    }
};

template <typename... P>
static const char* start(void (*kernel)(P...), void** arguments, unsigned given,
                         const unsigned* sizes, const unsigned* grid, const unsigned* block,
                         size_t shared) {
    unsigned expected[] = {sizeof(P)..., 0};
    if (given != sizeof...(P)) return "it takes another number of arguments";
    for (unsigned i = 0; i < given; i++)
        if (sizes[i] != expected[i]) return "an argument has another size than its parameter";
    Call<P...> call = {kernel, arguments};
#ifdef FLUSH_TO_ZERO
    struct Flushing {
        unsigned before = __builtin_ia32_stmxcsr();
        Flushing() { __builtin_ia32_ldmxcsr(before | 0x8040); }  // results and operands
        ~Flushing() { __builtin_ia32_ldmxcsr(before); }
    } flushing;
#endif
    return launch(Call<P...>::entry, &call, grid, block, shared);
}

}  // namespace cuda_on_host

using cuda_on_host::dim3;
using cuda_on_host::uint3;
#define threadIdx (cuda_on_host::running->thread)
#define blockIdx (cuda_on_host::block_index)
#define blockDim (cuda_on_host::block_size)
#define gridDim (cuda_on_host::grid_size)
static const int warpSize = 32;

// --- waiting for one another, and looking at one another ------------------------------------------

static inline void __syncthreads() { cuda_on_host::yield(cuda_on_host::AT_BLOCK_BARRIER); }
static inline void __syncwarp(unsigned mask = 0xffffffffu) {
    cuda_on_host::running->mask = mask;
    cuda_on_host::yield(cuda_on_host::AT_WARP_BARRIER);
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}

static inline unsigned lane_number() {
    return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32;
}

template <typename T> static T from_lane(unsigned mask, T value, unsigned lane) {
    static_assert(sizeof(T) <= 16, "a shuffle moves 16 bytes at most");
    unsigned linear = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    std::memcpy(cuda_on_host::running->slot, &value, sizeof(T));
    __syncwarp(mask);
    T found;
    std::memset((void*)&found, 0xff, sizeof(T));  // NaN from a lane that takes no part
    if (mask >> lane & 1)
        std::memcpy((void*)&found, cuda_on_host::fibers[linear / 32 * 32 + lane]->slot, sizeof(T));
    __syncwarp(mask);
    return found;
}
template <typename T> T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
    return from_lane(mask, value, lane_number() / width * width + (unsigned)lane % width);
}
template <typename T> T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
    unsigned other = lane_number() ^ (unsigned)lanes;
    return from_lane(mask, value, other / width > lane_number() / width ? lane_number() : other);
}
template <typename T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    unsigned within = lane_number() % width + delta;
    return from_lane(mask, value, within < (unsigned)width ? lane_number() + delta : lane_number());
}
template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    unsigned within = lane_number() % width;
    return from_lane(mask, value, within >= delta ? lane_number() - delta : lane_number());
}
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    unsigned linear = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    unsigned found = 0;
    cuda_on_host::running->slot[0] = !!predicate;
    __syncwarp(mask);
    for (unsigned lane = 0; lane < 32; lane++)
        if (mask >> lane & 1)
            found |= (unsigned)cuda_on_host::fibers[linear / 32 * 32 + lane]->slot[0] << lane;
    __syncwarp(mask);
    return found;
}
static inline int __any_sync(unsigned mask, int p) { return __ballot_sync(mask, p) != 0; }
static inline int __all_sync(unsigned mask, int p) { return __ballot_sync(mask, p) == mask; }
static inline int __syncthreads_or(int predicate) {
    cuda_on_host::running->slot[0] = !!predicate;
    __syncthreads();
    int found = 0;
    for (unsigned t = 0; t < blockDim.x * blockDim.y * blockDim.z; t++)
        found |= cuda_on_host::fibers[t]->slot[0];
    __syncthreads();
    return found;
}

// One thread runs at a time, so these are whole by themselves. There are none for floating point.
#define ATOMIC(name, expression)                                                      \
    template <typename T, typename V> T name(T* place, V given) {                     \
        static_assert(std::is_integral<T>::value, #name " of floats has no fixed order"); \
        T old = *place, value = (T)given;                                             \
        *place = (expression);                                                        \
        return old;                                                                   \
    }
ATOMIC(atomicAdd, old + value)
ATOMIC(atomicSub, old - value)
ATOMIC(atomicMax, old > value ? old : value)
ATOMIC(atomicMin, old < value ? old : value)
ATOMIC(atomicAnd, old & value)
ATOMIC(atomicOr, old | value)
ATOMIC(atomicExch, value)
#undef ATOMIC
template <typename T> T atomicCAS(T* place, T expected, T value) {
    T old = *place;
    if (old == expected) *place = value;
    return old;
}

// --- numbers --------------------------------------------------------------------------------------

template <typename To, typename From> static inline To same_bits(From x) {
    To y;
    static_assert(sizeof(To) == sizeof(From), "");
    std::memcpy(&y, &x, sizeof(To));
    return y;
}
static inline float __int_as_float(int x) { return same_bits<float>(x); }
static inline float __uint_as_float(unsigned x) { return same_bits<float>(x); }
static inline int __float_as_int(float x) { return same_bits<int>(x); }
static inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
static inline double __longlong_as_double(long long x) { return same_bits<double>(x); }
static inline long long __double_as_longlong(double x) { return same_bits<long long>(x); }

static inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t)a * b >> 32; }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned __int128)a * b >> 64;
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int bit = 0; bit < 32; bit++) y |= (x >> bit & 1) << (31 - bit);
    return y;
}

// Each operation rounded by itself, as the intrinsics do, also where the compiler may contract.
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) {
    volatile float y = a * b;
    return y;
}
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return std::sqrt(a); }
static inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) {
    volatile double y = a * b;
    return y;
}
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __dsqrt_rn(double a) { return std::sqrt(a); }
static inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
#define __expf expf
#define __logf logf
static inline float __fdividef(float a, float b) { return a / b; }
static inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
static inline double rsqrt(double x) { return 1 / std::sqrt(x); }
static inline void sincospif(float x, float* s, float* c) {
    *s = (float)std::sin(M_PI * (double)x), *c = (float)std::cos(M_PI * (double)x);
}
static inline void sincospi(double x, double* s, double* c) {
    *s = std::sin(M_PI * x), *c = std::cos(M_PI * x);
}
template <typename A, typename B> static inline std::common_type_t<A, B> min(A a, B b) {
    return std::is_floating_point<std::common_type_t<A, B>>::value && b != b ? a : b < a ? b : a;
}
template <typename A, typename B> static inline std::common_type_t<A, B> max(A a, B b) {
    return std::is_floating_point<std::common_type_t<A, B>>::value && a != a ? b : a < b ? b : a;
}
template <typename T> static inline T __ldg(const T* place) { return *place; }

struct __half {
    _Float16 value;
    __half() = default;
    explicit __half(float x) : value((_Float16)x) {}
    explicit __half(double x) : value((_Float16)x) {}
    operator float() const { return (float)value; }
};
static inline float __half2float(__half x) { return (float)x.value; }
static inline __half __float2half(float x) { return __half(x); }
static inline __half __float2half_rn(float x) { return __half(x); }
static inline __half __double2half(double x) { return __half(x); }
static inline __half __ushort_as_half(unsigned short x) { return same_bits<__half>(x); }
static inline unsigned short __half_as_ushort(__half x) { return same_bits<unsigned short>(x); }

struct __nv_bfloat16 {
    unsigned short bits;
    __nv_bfloat16() = default;
    explicit __nv_bfloat16(float x) {
        unsigned all = same_bits<unsigned>(x);
        bool number = x == x;  // rounded to the nearest, ties to even
        bits = number ? (all + 0x7fff + (all >> 16 & 1)) >> 16 : 0x7fff;
    }
    operator float() const { return same_bits<float>((unsigned)bits << 16); }
};
static inline float __bfloat162float(__nv_bfloat16 x) { return x; }
static inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
static inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }

#define VECTOR(T, name)                                                                      \
    struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                       \
    struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) name##4 { T x, y, z, w; };       \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                        \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
VECTOR(float, float)
VECTOR(double, double)
VECTOR(int, int)
VECTOR(unsigned, uint)
#undef VECTOR
static inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
