/* Sizes, status codes and types that every part of the kernel shares. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define BLOCK 4096    /* values: 16 KB of float32 */
#define LANES 16      /* sums kept side by side, so that the compiler can use vectors of any width */
#define AHEAD 8192    /* bytes: the hardware's own prefetcher stalls while a block is reduced */
#define ROWS 64       /* positions at a time where channels lie innermost, at most */
#define SLOTS 512     /* histogram: exponent of float32 + 127, and 256 more for negative values */
#define TABLES 4      /* histograms side by side: equal values in a row would wait for each other's increment */
#define WINDOW 16     /* powers of two below the greatest that are counted by vectors, OCTET at a time */
#define OCTET 8
#define FAR_BELOW 127
#define PIECE 1024    /* values of two arrays that are compared at a time: with what is allowed for each they stay in the first-level cache */
#define MAX_THREADS 32
#define THREAD_BYTES (2 << 20) /* a thread is worth starting for so much */

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif
#define INLINE static inline __attribute__((always_inline))

enum { FLOAT32, FLOAT64, FLOAT16, BFLOAT16 };
enum { ROW_COLUMNS, AT_WRITTEN, AT_SLOT }; /* of a row: the numbers of records/statistics.py, as the build says them */
enum { DONE = 0, OUT_OF_RANGE = 1, OUT_OF_MEMORY = 2, UNSUPPORTED = 3, FULL = 4, NOT_FINITE = 5 };
static const int SIZES[] = {4, 8, 2, 2};

/* Moments of values: n finite ones, their sum and sum of squares around `shift`. */
typedef struct {
    double n, shift, s1, s2, min, max;
    int64_t zeros, nan, inf;
} Moments;

typedef struct {
    uint32_t counts[TABLES][SLOTS];
    int tables; /* how many hold counts, 0 for the first alone */
    int misses; /* blocks still to be counted one by one */
    int top;    /* the exponent below which the next block is expected, 0 where nothing is known */
    int is_signed;
} Buckets;

typedef uint8_t Bytes __attribute__((vector_size(32)));

static const Moments NOTHING = {0, 0, 0, 0, INFINITY, -INFINITY, 0, 0, 0};
