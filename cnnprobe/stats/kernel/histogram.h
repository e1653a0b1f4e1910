/* The histogram of magnitudes. */
#pragma once
#include "widen.h"

INLINE void count_each(Buckets *b, const float *x, int n) {
    int i = 0;
    if (n >= 64)
        b->tables = TABLES;
    for (; n >= 64 && i + 4 <= n; i += 4) {
        uint64_t two[2];
        memcpy(two, x + i, 16);
        b->counts[0][(uint32_t)two[0] >> 23]++;
        b->counts[1][two[0] >> 55]++;
        b->counts[2][(uint32_t)two[1] >> 23]++;
        b->counts[3][two[1] >> 55]++;
    }
    for (; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        b->counts[0][bits >> 23]++;
    }
}

INLINE int exponent_of(double v) {
    float f = (float)v;
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return (int)(bits >> 23 & 255);
}

/* How many of `keys` equal first, first + 1, ... first + OCTET - 1. A vector type, as compilers keep arrays of sums in memory. */
INLINE void count_keys(const uint8_t *keys, int n, uint8_t first, uint32_t *totals) {
    Bytes sums[OCTET];
    memset(sums, 0, sizeof sums);
    for (int i = 0; i < n; i += 32) {
        Bytes key;
        memcpy(&key, keys + i, 32);
        for (int k = 0; k < OCTET; k++)
            sums[k] -= (Bytes)(key == (uint8_t)(first + k)); /* true is -1 */
    }
    for (int k = 0; k < OCTET; k++) {
        uint32_t total = 0;
        for (int j = 0; j < 32; j++)
            total += sums[k][j];
        totals[k] = total;
    }
}

/* Each value's key: how many powers of two it lies below the greatest, at most FAR_BELOW, and the sign in the uppermost bit. */
INLINE void write_keys(uint8_t *keys, const float *x, int n, int top, int is_signed) {
    for (int i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        keys[i] = (uint8_t)(bits << 1 >> 24);
    }
    for (int i = 0; i < n; i++) {
        uint8_t below = (uint8_t)(top - keys[i]);
        keys[i] = below < FAR_BELOW ? below : FAR_BELOW;
    }
    for (int i = 0; is_signed && i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        keys[i] |= (uint8_t)(bits >> 24) & 128;
    }
}

/* What lies below the window, one by one. Chunks that hold none of it are told by their keys alone: `floor` is the key of zeros. */
INLINE void count_missed(Buckets *b, const float *x, const uint8_t *keys, int n, int floor, int64_t missed) {
    for (int start = 0; missed > 0 && start < n; start += 64) {
        int end = start + 64 < n ? start + 64 : n;
        uint8_t some = 0;
        for (int i = start; i < end; i++)
            some |= (uint8_t)(((keys[i] & FAR_BELOW) >= WINDOW) & ((keys[i] & FAR_BELOW) != floor));
        for (int i = some ? start : end; i < end; i++)
            if ((keys[i] & FAR_BELOW) >= WINDOW && (keys[i] & FAR_BELOW) != floor) {
                uint32_t bits;
                memcpy(&bits, x + i, 4);
                b->counts[0][bits >> 23]++;
                missed--;
            }
    }
    for (int i = 0; missed > 0 && i < n; i++) /* so small that zeros have the same key */
        if ((keys[i] & FAR_BELOW) == floor && x[i] != 0) {
            uint32_t bits;
            memcpy(&bits, x + i, 4);
            b->counts[0][bits >> 23]++;
            missed--;
        }
}

/* Counts a block without NaN and Inf, the greatest of which has the exponent `top`; gives how many values lie below the window. */
typedef int64_t Count(Buckets *b, const float *x, int n, int top, const Moments *m);

/* Bytes compared by vectors: four times as fast as increments. */
INLINE int64_t count_by_keys(Buckets *b, const float *x, int n, int top, const Moments *m) {
    uint8_t keys[BLOCK];
    int padded = (n + 31) / 32 * 32;
    write_keys(keys, x, n, top, m->min < 0);
    memset(keys + n, FAR_BELOW, (size_t)(padded - n));
    int64_t counted = 0;
    for (int sign = m->max > 0 ? 0 : 1; sign <= (m->min < 0); sign++)
        for (int first = 0; first < WINDOW; first += OCTET) {
            uint32_t totals[OCTET];
            count_keys(keys, padded, (uint8_t)(first | sign << 7), totals);
            for (int k = 0; k < OCTET; k++) {
                b->counts[0][top - first - k + sign * 256] += totals[k];
                counted += totals[k];
            }
        }
    int64_t missed = n - m->zeros - counted;
    b->counts[0][0] += (uint32_t)m->zeros;
    if (missed > 0)
        count_missed(b, x, keys, n, top < FAR_BELOW ? top : FAR_BELOW, missed);
    return missed;
}

INLINE int top_of(const Moments *m) {
    int high = exponent_of(m->max), low = exponent_of(m->min);
    return high > low ? high : low;
}

/* Where the next block will lie, by one whose greatest value has the exponent `top`: what falls is followed late, as it may rise again. */
INLINE void watch_window(Buckets *b, int top, int is_signed, int64_t far) {
    b->top = top > b->top || top < b->top - 4 ? top : b->top;
    b->is_signed = is_signed;
    if (far > BLOCK / 16) /* values spread so widely: let the next blocks go the slow way at once */
        b->misses = 16;
    if (b->misses > 0 || b->top <= WINDOW)
        b->top = 0;
}

/* Nearly all values of a block lie within WINDOW powers of two of its greatest: those are counted by vectors, what lies below one by one.
 * A block with NaN or Inf, or so small that zeros come into the window, goes the slow way. */
INLINE void count_floats(Buckets *b, const float *x, int n, const Moments *m, Count *count) {
    int top = top_of(m), is_plain = m->n == n && top > WINDOW && n >= 64;
    b->top = 0;
    if (!is_plain || b->misses > 0) {
        b->misses -= b->misses > 0;
        count_each(b, x, n);
    } else {
        watch_window(b, top, m->min < 0, count(b, x, n, top, m) * BLOCK / n);
    }
}

INLINE void count_doubles(Buckets *b, const double *x, int n) {
    b->tables = TABLES;
    for (int i = 0; i < n; i++) {
        uint64_t bits;
        memcpy(&bits, x + i, 8);
        int exponent = (int)(bits >> 52 & 0x7ff), slot = exponent - 1023 + 127;
        /* Masks: which side of a bound a value lies on is unpredictable, and a mispredicted branch costs more than all the rest. */
        int under = slot >> 31, over = (254 - slot) >> 31, special = (0x7fe - exponent) >> 31;
        slot = (slot & ~under & ~over) | (254 & over) | (255 & special);
        b->counts[i & (TABLES - 1)][slot | (int)(bits >> 63) << 8]++;
    }
}

/* Nonzero values below 2**-126, by sign: only they share a slot with the zeros. */
static void count_tiny(const void *x, int dtype, int64_t count, int64_t tiny[2]) {
    float buffer[BLOCK];
    tiny[0] = tiny[1] = 0;
    for (int64_t start = 0; start < count; start += BLOCK) {
        int n = (int)(count - start < BLOCK ? count - start : BLOCK);
        const float *f = dtype == FLOAT64 ? 0 : as_floats(x, dtype, start, n, buffer, widen_half);
        for (int i = 0; i < n; i++) {
            double v = f ? f[i] : ((const double *)x)[start + i];
            tiny[v < 0] += v != 0 && fabs(v) < 0x1p-126;
        }
    }
}

static void write_histogram(const void *x, int dtype, int64_t count, int64_t zeros, int64_t *histogram) {
    int64_t tiny[2] = {0, 0};
    if (histogram[0] + histogram[256] != zeros)
        count_tiny(x, dtype, count, tiny);
    histogram[0] = tiny[0];
    histogram[256] = tiny[1];
    histogram[255] = histogram[511] = 0; /* Inf and NaN */
}

static void flush(Buckets *b, int64_t *histogram) {
    int tables = b->tables > 1 ? b->tables : 1;
    for (int t = 0; t < tables; t++)
        for (int i = 0; i < SLOTS; i++)
            histogram[i] += b->counts[t][i];
    memset(b->counts, 0, (size_t)tables * sizeof *b->counts);
}
