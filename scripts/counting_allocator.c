/* Counts what a process asks the C library's allocator for: live bytes, their peak, and the calls.

   bench.py compiles this file and preloads it (glibc only), so that every library is measured by the
   same ruler: NumPy, PyTorch and XLA all take the memory of their arrays from these functions. */

#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static atomic_llong live, peak, calls;

static void *counted(void *block) {
    if (!block) return block;
    long long now = atomic_fetch_add(&live, malloc_usable_size(block)) + malloc_usable_size(block);
    long long most = atomic_load(&peak);
    while (now > most && !atomic_compare_exchange_weak(&peak, &most, now)) {}
    atomic_fetch_add(&calls, 1);
    return block;
}

long long counting_live(void) { return atomic_load(&live); }
long long counting_peak(void) { return atomic_load(&peak); }
long long counting_calls(void) { return atomic_load(&calls); }

void counting_reset(void) {
    atomic_store(&peak, atomic_load(&live));
    atomic_store(&calls, 0);
}

void *malloc(size_t size) { return counted(__libc_malloc(size)); }
void *calloc(size_t count, size_t size) { return counted(__libc_calloc(count, size)); }
void *memalign(size_t alignment, size_t size) { return counted(__libc_memalign(alignment, size)); }
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **place, size_t alignment, size_t size) {
    void *block = memalign(alignment, size);
    if (!block) return ENOMEM;
    *place = block;
    return 0;
}

void free(void *block) {
    if (block) atomic_fetch_sub(&live, malloc_usable_size(block));
    __libc_free(block);
}

void *realloc(void *block, size_t size) {
    size_t before = block ? malloc_usable_size(block) : 0;
    void *moved = __libc_realloc(block, size);
    if (moved || !size) atomic_fetch_sub(&live, before);
    return counted(moved);
}
