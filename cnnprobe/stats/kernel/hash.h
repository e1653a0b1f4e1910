/* A hash of memory, equal where the bytes are equal: the sum of its words of eight bytes, each times an odd weight of its place, modulo 2**64.
 * The words lie in rows of HASH_ROW; a weight is that of the column plus that of the row, so that a row is summed and added, not multiplied.
 * The same in NumPy: monitoring/fingerprints.py. */
#pragma once
#include "common.h"

#define HASH_ROW 1024                /* words: a row and the sums of the columns stay in the first-level cache */
#define GOLDEN 0x9E3779B97F4A7C15ull /* 2**64 over the golden ratio: its multiples lie far apart */

/* Word `i` of memory that may end within it. */
INLINE uint64_t word_at(const char *x, int64_t i, int64_t bytes) {
    uint64_t word = 0;
    memcpy(&word, x + 8 * i, bytes - 8 * i < 8 ? (size_t)(bytes - 8 * i) : 8);
    return word;
}

/* At most a row, each word times the weight of its column. */
INLINE uint64_t weigh_columns(const char *x, int64_t bytes) {
    uint64_t total = 0, whole = (uint64_t)bytes / 8;
    for (uint64_t c = 0; c < whole; c++) {
        uint64_t word;
        memcpy(&word, x + 8 * c, 8);
        total += word * ((GOLDEN * c) | 1);
    }
    return bytes % 8 ? total + word_at(x, (int64_t)whole, bytes) * ((GOLDEN * whole) | 1) : total;
}

/* Adds at most a row to the columns; its own sum. */
INLINE uint64_t add_row(const char *x, int64_t bytes, uint64_t *columns) {
    uint64_t sum = 0;
    int64_t whole = bytes / 8;
    for (int64_t c = 0; c < whole; c++) {
        uint64_t word;
        memcpy(&word, x + 8 * c, 8);
        columns[c] += word;
        sum += word;
    }
    if (bytes % 8) {
        uint64_t word = word_at(x, whole, bytes);
        columns[whole] += word;
        sum += word;
    }
    return sum;
}

/* The hash of `bytes` bytes at `x`, which are copied to `to` where that is not null, while they are in the cache. */
INLINE uint64_t hash_memory(const char *x, int64_t bytes, char *to) {
    const int64_t row = 8 * HASH_ROW;
    if (bytes <= row) {
        if (to)
            memcpy(to, x, (size_t)bytes);
        return weigh_columns(x, bytes);
    }
    uint64_t columns[HASH_ROW] = {0}, rows = 0, weight = 0;
    int64_t at = 0;
    for (; at + row <= bytes; at += row, weight += 2 * GOLDEN) {
        rows += add_row(x + at, row, columns) * weight;
        if (to)
            memcpy(to + at, x + at, (size_t)row);
    }
    if (at < bytes) {
        rows += add_row(x + at, bytes - at, columns) * weight;
        if (to)
            memcpy(to + at, x + at, (size_t)(bytes - at));
    }
    return rows + weigh_columns((const char *)columns, row);
}
