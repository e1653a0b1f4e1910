/* The histogram of a block by AVX-512: the exponents of 64 values side by side in bytes, each turned into one bit of a byte for its bucket,
 * and the bits of eight bytes at a time counted together. */
#pragma once
#include "histogram.h"

#if defined(__x86_64__)
#define WIDE __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bitalg,gfni")))
#define RUN 16 /* sums of bytes stay below 256 for so many vectors of 64 values */
#define SIGN 32 /* bit of a key: the value is negative */

/* Where `mask` has ones the bits of `a`, else those of `b`. */
WIDE INLINE __m512i choose(uint32_t mask, __m512i a, __m512i b) {
    return _mm512_ternarylogic_epi32(_mm512_set1_epi32((int)mask), a, b, 0xca);
}

/* The exponents of 64 values at `x`, one a byte, in an order of their own; in `signs` the sign of each where a key has it. */
WIDE INLINE __m512i exponents_of(const float *x, __m512i *signs, int is_signed) {
    __m512i a = _mm512_rol_epi32(_mm512_loadu_si512(x), 9), b = _mm512_rol_epi32(_mm512_loadu_si512(x + 16), 17);
    __m512i c = _mm512_rol_epi32(_mm512_loadu_si512(x + 32), 25), d = _mm512_rol_epi32(_mm512_loadu_si512(x + 48), 1);
    if (is_signed) /* each sign lies one bit above its exponent, so at the start of the next byte */
        *signs = _mm512_rol_epi32(choose(0x00ffff00, choose(0x0000ffff, a, b), choose(0xffff0000, c, d)), 29);
    return choose(0x0000ffff, choose(0x00ff00ff, a, b), choose(0x00ff00ff, c, d));
}

/* Count one by one those of 64 values that lie below the window and are no zeros: few. */
WIDE static __attribute__((noinline)) int count_far(Buckets *b, const float *x, uint64_t far) {
    uint8_t slots[64], negative[64];
    __m512i signs, exponents = exponents_of(x, &signs, 1);
    int found = 0;
    _mm512_storeu_si512(slots, exponents);
    _mm512_storeu_si512(negative, signs);
    for (; far; far &= far - 1, found++) {
        int j = __builtin_ctzll(far);
        b->counts[0][slots[j] | (negative[j] & SIGN) * (256 / SIGN)]++;
    }
    return found;
}

/* A table for 64 keys: bit k of the byte at `first + k`. */
WIDE INLINE __m512i table_of(int first) {
    uint8_t table[64] = {0};
    for (int k = 0; k < OCTET; k++)
        table[first + k] = (uint8_t)(1 << k);
    return _mm512_loadu_si512(table);
}

/* How many of 64 keys each bit of the table stands for: eight counts for eight keys, which add up in bytes. */
WIDE INLINE __m512i count_keyed(__m512i table, __m512i keys) {
    __m512i transposed = _mm512_gf2p8affine_epi64_epi8(_mm512_set1_epi64((int64_t)0x8040201008040201), _mm512_permutexvar_epi8(keys, table), 0);
    return _mm512_popcnt_epi8(transposed);
}

/* Add eight counts, even and odd ones apart in 16 bits each, to the buckets downwards from `slot`. */
WIDE INLINE int add_counts(uint32_t *slot, __m512i even, __m512i odd) {
    uint64_t evens = (uint64_t)_mm512_reduce_add_epi64(even), odds = (uint64_t)_mm512_reduce_add_epi64(odd);
    int counted = 0;
    for (int k = 0; k < OCTET; k += 2, evens >>= 16, odds >>= 16) {
        slot[-k] += (uint32_t)(evens & 0xffff);
        slot[-k - 1] += (uint32_t)(odds & 0xffff);
        counted += (int)(evens & 0xffff) + (int)(odds & 0xffff);
    }
    return counted;
}

/* Whole vectors of 64 values. They fetch the second half of the next block: the pass before has fetched the first. */
WIDE INLINE int count_vectors(Buckets *b, const float *x, int vectors, int top, int is_signed, int *far) {
    const int octets = is_signed ? 4 : 2;
    const __m512i low = _mm512_set1_epi16(255), greatest = _mm512_set1_epi8((char)top), last = _mm512_set1_epi8(is_signed ? SIGN - 1 : 63);
    const __m512i bound = _mm512_set1_epi8((char)(top - WINDOW));
    __m512i tables[4], even[4], odd[4];
    for (int q = 0; q < octets; q++) {
        tables[q] = table_of(q * OCTET + (q < 2 ? 0 : SIGN - 2 * OCTET));
        even[q] = odd[q] = _mm512_setzero_si512();
    }
    for (int start = 0; start < vectors; start += RUN) {
        int stop = start + RUN < vectors ? start + RUN : vectors;
        __m512i sums[4];
        uint64_t below[RUN], any = 0; /* which lie below the window and are no zeros */
        for (int q = 0; q < octets; q++)
            sums[q] = _mm512_setzero_si512();
        for (int i = start; i < stop; i++) {
            const char *next = (const char *)(x + BLOCK + BLOCK / 2) + i * 128;
            __builtin_prefetch(next);
            __builtin_prefetch(next + 64);
            __m512i signs, exponents = exponents_of(x + i * 64, &signs, is_signed);
            __m512i keys = _mm512_min_epu8(_mm512_sub_epi8(greatest, exponents), last);
            if (is_signed)
                keys = choose(0x01010101u * SIGN, signs, keys);
            any |= below[i - start] = _mm512_cmplt_epu8_mask(_mm512_add_epi8(exponents, _mm512_set1_epi8(-1)), bound); /* zeros become the greatest */
            for (int q = 0; q < octets; q++)
                sums[q] = _mm512_add_epi8(sums[q], count_keyed(tables[q], keys));
        }
        for (int q = 0; q < octets; q++) {
            even[q] = _mm512_add_epi16(even[q], _mm512_and_si512(sums[q], low));
            odd[q] = _mm512_add_epi16(odd[q], _mm512_srli_epi16(sums[q], 8));
        }
        for (int i = any ? start : stop; i < stop; i++)
            if (below[i - start])
                *far += count_far(b, x + i * 64, below[i - start]);
    }
    int counted = 0;
    for (int q = 0; q < octets; q++)
        counted += add_counts(b->counts[0] + top - (q & 1) * OCTET + (q < 2 ? 0 : 256), even[q], odd[q]);
    return counted;
}

/* Count the values of a block without NaN and Inf, the greatest of which has the exponent `top`; how many lay below the window. */
WIDE static int64_t count_by_bytes(Buckets *b, const float *x, int n, int top, const Moments *m) {
    int whole = n / 64, far = 0, counted;
    float rest[64] = {0}; /* zeros lie below the window */
    if (m->min < 0)
        counted = count_vectors(b, x, whole, top, 1, &far);
    else
        counted = count_vectors(b, x, whole, top, 0, &far);
    if (n > whole * 64) {
        memcpy(rest, x + whole * 64, (size_t)(n - whole * 64) * sizeof *rest);
        counted += count_vectors(b, rest, 1, top, 1, &far);
    }
    b->counts[0][0] += (uint32_t)(n - counted - far); /* zeros, and what is so small that it shares their slot */
    return far;
}
#endif
