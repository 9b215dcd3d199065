/* What runtime.c asks of a C library, for WebAssembly, which has none. Memory is never given back: a page has one model
   and takes all of it with it when it is closed.

   page.py has the command that builds runtime.wasm. */

#include <stddef.h>
#include <stdint.h>

#define INFINITY __builtin_inff()
#define fabs __builtin_fabs
#define fabsf __builtin_fabsf
#define floor __builtin_floor
#define sqrt __builtin_sqrt
#define sqrtf __builtin_sqrtf

extern unsigned char __heap_base;
static size_t heap_end;

__attribute__((export_name("allocate"))) void *allocate(size_t size) {
    if (!heap_end) heap_end = (size_t)&__heap_base;
    size_t begin = (heap_end + 15) & ~(size_t)15, end = begin + size;
    size_t pages = (end + 65535) / 65536, there = __builtin_wasm_memory_size(0);
    if (end < begin || (pages > there && __builtin_wasm_memory_grow(0, pages - there) == (size_t)-1)) return NULL;
    heap_end = end;
    return (void *)begin;
}

void *memcpy(void *to, const void *from, size_t n) {
    for (size_t i = 0; i < n; i++) ((char *)to)[i] = ((const char *)from)[i];
    return to;
}

void *memset(void *to, int byte, size_t n) {
    for (size_t i = 0; i < n; i++) ((char *)to)[i] = (char)byte;
    return to;
}

void *memmove(void *to, const void *from, size_t n) {
    if ((char *)to < (const char *)from) return memcpy(to, from, n);
    while (n--) ((char *)to)[n] = ((const char *)from)[n];
    return to;
}

int memcmp(const void *a, const void *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (((const unsigned char *)a)[i] != ((const unsigned char *)b)[i])
            return ((const unsigned char *)a)[i] - ((const unsigned char *)b)[i];
    return 0;
}

static void *malloc(size_t size) { return allocate(size); }

static void *calloc(size_t count, size_t size) { /* fresh memory is 0, and none is used twice */
    return size && count > (size_t)-1 / size ? NULL : allocate(count * size);
}

static void *realloc(void *old, size_t size) { /* runtime.c only ever doubles */
    void *new_ = allocate(size);
    return old && new_ ? memcpy(new_, old, size / 2) : new_;
}

static void free(void *p) { (void)p; }

static size_t strlen(const char *s) {
    size_t n = 0;
    while (s[n]) n++;
    return n;
}

static int strcmp(const char *a, const char *b) {
    while (*a && *a == *b) a++, b++;
    return (unsigned char)*a - (unsigned char)*b;
}

static char *strchr(const char *s, int c) {
    for (;; s++) {
        if (*s == (char)c) return (char *)s;
        if (!*s) return NULL;
    }
}

static char *strcat(char *to, const char *from) {
    memcpy(to + strlen(to), from, strlen(from) + 1);
    return to;
}

static double ldexp(double x, int n) { /* of what is normal, before and after */
    union { double f; uint64_t i; } power;
    if (n < -1000) return 0.0;
    power.i = (uint64_t)(n + 1023) << 52;
    return x * power.f;
}

static double frexp(double x, int *n) {
    union { double f; uint64_t i; } bits;
    bits.f = x;
    *n = (int)(bits.i >> 52 & 2047) - 1022;
    bits.i = (bits.i & ~((uint64_t)2047 << 52)) | (uint64_t)1022 << 52;
    return bits.f;
}
