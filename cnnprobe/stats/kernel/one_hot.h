/* The histogram of a block by AVX-512: the exponents of 64 values side by side in bytes, each turned into one bit of a byte for its bucket,
 * and the bits of eight bytes at a time counted together. */
#pragma once
#include "histogram.h"
#include "moments.h"

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

/* Put eight counts, even and odd ones apart in 16 bits each, at `to` and downwards. */
WIDE INLINE void put_counts(uint32_t *to, __m512i even, __m512i odd) {
    uint64_t evens = (uint64_t)_mm512_reduce_add_epi64(even), odds = (uint64_t)_mm512_reduce_add_epi64(odd);
    for (int k = 0; k < OCTET; k += 2, evens >>= 16, odds >>= 16) {
        to[-k] = (uint32_t)(evens & 0xffff);
        to[-k - 1] = (uint32_t)(odds & 0xffff);
    }
}

/* What was counted of a block: the powers of two of the window, ascending, of positive and of negative values; and which values of each
 * vector lie below the window and are no zeros. */
typedef struct {
    uint32_t counts[2][WINDOW];
    uint64_t below[BLOCK / 64], any;
} Counted;

/* Moments by vectors; `tiny` says whether a value is a denormal. */
typedef struct {
    __m512 s1a, s1b, s2a, s2b, low, high;
    uint32_t tiny;
} Sums;

#define DENORMAL 0x20

WIDE INLINE void sum_values(Sums *s, const float *x, __m512 shift) {
    __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16), c = _mm512_loadu_ps(x + 32), d = _mm512_loadu_ps(x + 48);
    s->low = _mm512_min_ps(_mm512_min_ps(a, b), _mm512_min_ps(_mm512_min_ps(c, d), s->low));
    s->high = _mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(_mm512_max_ps(c, d), s->high));
    s->tiny |= (uint32_t)(_mm512_fpclass_ps_mask(a, DENORMAL) | _mm512_fpclass_ps_mask(b, DENORMAL) | _mm512_fpclass_ps_mask(c, DENORMAL) |
                          _mm512_fpclass_ps_mask(d, DENORMAL));
    a = _mm512_sub_ps(a, shift), b = _mm512_sub_ps(b, shift), c = _mm512_sub_ps(c, shift), d = _mm512_sub_ps(d, shift);
    s->s1a = _mm512_add_ps(_mm512_add_ps(s->s1a, a), c);
    s->s1b = _mm512_add_ps(_mm512_add_ps(s->s1b, b), d);
    s->s2a = _mm512_fmadd_ps(c, c, _mm512_fmadd_ps(a, a, s->s2a));
    s->s2b = _mm512_fmadd_ps(d, d, _mm512_fmadd_ps(b, b, s->s2b));
}

/* Whole vectors of 64 values into `found`, and in the same read their moments, where asked for. */
WIDE INLINE void count_vectors(const float *x, int vectors, int top, int is_signed, Sums *sums, __m512 shift, Counted *found) {
    const int octets = is_signed ? 4 : 2;
    const __m512i low = _mm512_set1_epi16(255), greatest = _mm512_set1_epi8((char)top), last = _mm512_set1_epi8(is_signed ? SIGN - 1 : 63);
    const __m512i bound = _mm512_set1_epi8((char)(top - WINDOW));
    __m512i tables[4], even[4], odd[4];
    uint64_t any = 0;
    for (int q = 0; q < octets; q++) {
        tables[q] = table_of(q * OCTET + (q < 2 ? 0 : SIGN - 2 * OCTET));
        even[q] = odd[q] = _mm512_setzero_si512();
    }
    for (int start = 0; start < vectors; start += RUN) {
        int stop = start + RUN < vectors ? start + RUN : vectors;
        __m512i each[4];
        for (int q = 0; q < octets; q++)
            each[q] = _mm512_setzero_si512();
        for (int i = start; i < stop; i++) {
            if (sums) {
                for (int line = 0; line < 256; line += 64)
                    __builtin_prefetch((const char *)(x + i * 64) + AHEAD + line);
                sum_values(sums, x + i * 64, shift);
            }
            __m512i signs, exponents = exponents_of(x + i * 64, &signs, is_signed);
            __m512i keys = _mm512_min_epu8(_mm512_sub_epi8(greatest, exponents), last);
            if (is_signed)
                keys = choose(0x01010101u * SIGN, signs, keys);
            any |= found->below[i] = _mm512_cmplt_epu8_mask(_mm512_add_epi8(exponents, _mm512_set1_epi8(-1)), bound); /* zeros become the greatest */
            for (int q = 0; q < octets; q++)
                each[q] = _mm512_add_epi8(each[q], count_keyed(tables[q], keys));
        }
        for (int q = 0; q < octets; q++) {
            even[q] = _mm512_add_epi16(even[q], _mm512_and_si512(each[q], low));
            odd[q] = _mm512_add_epi16(odd[q], _mm512_srli_epi16(each[q], 8));
        }
    }
    for (int q = 0; q < octets; q++)
        put_counts(&found->counts[q / 2][WINDOW - 1 - (q & 1) * OCTET], even[q], odd[q]);
    found->any = any;
}

/* Add what was counted of so many vectors; how many values lay below the window. */
WIDE INLINE int keep_counts(Buckets *b, const float *x, int vectors, int top, int is_signed, const Counted *found) {
    int far = 0, counted = 0;
    for (int sign = 0; sign <= is_signed; sign++)
        for (int k = 0; k < WINDOW; k++) {
            b->counts[0][top - WINDOW + 1 + k + sign * 256] += found->counts[sign][k];
            counted += (int)found->counts[sign][k];
        }
    for (int i = found->any ? 0 : vectors; i < vectors; i++)
        if (found->below[i])
            far += count_far(b, x + i * 64, found->below[i]);
    b->counts[0][0] += (uint32_t)(vectors * 64 - counted - far); /* zeros, and what is so small that it shares their slot */
    return far;
}

/* Count the values of a block without NaN and Inf, the greatest of which has the exponent `top`; how many lay below the window. */
WIDE static int64_t count_by_bytes(Buckets *b, const float *x, int n, int top, const Moments *m) {
    int whole = n / 64, far = 0, rest = n - whole * 64;
    Counted found;
    if (m->min < 0)
        count_vectors(x, whole, top, 1, 0, _mm512_setzero_ps(), &found);
    else
        count_vectors(x, whole, top, 0, 0, _mm512_setzero_ps(), &found);
    far += keep_counts(b, x, whole, top, m->min < 0, &found);
    if (rest) {
        float padded[64] = {0};
        memcpy(padded, x + whole * 64, (size_t)rest * sizeof *padded);
        count_vectors(padded, 1, top, 1, 0, _mm512_setzero_ps(), &found);
        far += keep_counts(b, padded, 1, top, 1, &found);
        b->counts[0][0] -= (uint32_t)(64 - rest);
    }
    return far;
}

/* Moments and histogram of a whole block by one read, in the window of the block before; 0 where it must be read again. */
WIDE static int take_at_once(Moments *into, Buckets *b, const float *x) {
    const __m512 none = _mm512_setzero_ps(), shift = _mm512_set1_ps((float)into->shift);
    Sums s = {none, none, none, none, _mm512_set1_ps(INFINITY), _mm512_set1_ps(-INFINITY), 0};
    Counted found;
    if (b->is_signed)
        count_vectors(x, BLOCK / 64, b->top, 1, &s, shift, &found);
    else
        count_vectors(x, BLOCK / 64, b->top, 0, &s, shift, &found);
    Moments m = {BLOCK, (float)into->shift, 0, 0, _mm512_reduce_min_ps(s.low), _mm512_reduce_max_ps(s.high), 0, 0, 0};
    m.s1 = _mm512_reduce_add_ps(_mm512_add_ps(s.s1a, s.s1b));
    m.s2 = _mm512_reduce_add_ps(_mm512_add_ps(s.s2a, s.s2b));
    int top = top_of(&m);
    if (s.tiny || is_suspect(&m, 1e-30) || is_far(&m, 4) || top > b->top || (m.min < 0 && !b->is_signed))
        return 0;
    uint32_t before = b->counts[0][0];
    int far = keep_counts(b, x, BLOCK / 64, b->top, b->is_signed, &found);
    m.zeros = b->counts[0][0] - before;
    add(into, m);
    watch_window(b, top, m.min < 0, far);
    return 1;
}
#endif
