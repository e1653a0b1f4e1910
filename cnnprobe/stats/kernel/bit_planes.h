/* The histogram of a block by AVX-512: bits of 64 values at a time side by side, and their combinations counted by population counts. */
#pragma once
#include "histogram.h"

#if defined(__x86_64__)
#define WIDE __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq")))
#define WORDS (BLOCK / 64)
enum { BIT_0, BIT_1, BIT_2, BIT_3, WITHIN, NEGATIVE, PLANES };

/* Count one by one those of 64 values that lie below the window and are no zeros: few. */
WIDE static int count_far(Buckets *b, __m512i exponents, __mmask64 far, __mmask64 negative) {
    uint8_t slots[64];
    int found = 0;
    _mm512_storeu_si512(slots, exponents);
    for (uint64_t left = far; left; left &= left - 1, found++) {
        int j = __builtin_ctzll(left);
        b->counts[0][slots[j] | (int)(negative >> j & 1) << 8]++;
    }
    return found;
}

/* The bit planes of 64 values at `x`: how many powers of two each lies below `top`, whether that is within the window, and the sign.
 * Packing changes the order of the values, in all planes alike. */
WIDE INLINE int slice(Buckets *b, const float *x, __m512i top, uint64_t planes[PLANES][WORDS], int at, int is_signed) {
    __m512i w0 = _mm512_packus_epi32(_mm512_srli_epi32(_mm512_loadu_si512(x), 23), _mm512_srli_epi32(_mm512_loadu_si512(x + 16), 23));
    __m512i w1 = _mm512_packus_epi32(_mm512_srli_epi32(_mm512_loadu_si512(x + 32), 23), _mm512_srli_epi32(_mm512_loadu_si512(x + 48), 23));
    __m512i byte = _mm512_set1_epi16(255);
    __m512i exponents = _mm512_packus_epi16(_mm512_and_si512(w0, byte), _mm512_and_si512(w1, byte));
    __m512i below = _mm512_sub_epi8(top, exponents);
    __mmask64 within = _mm512_cmplt_epu8_mask(below, _mm512_set1_epi8(WINDOW)), negative = 0;
    if (is_signed) /* the sign is the ninth bit: shifted to the sixteenth, it is what saturation keeps */
        negative = _mm512_movepi8_mask(_mm512_packs_epi16(_mm512_slli_epi16(w0, 7), _mm512_slli_epi16(w1, 7)));
    planes[BIT_0][at] = _mm512_test_epi8_mask(below, _mm512_set1_epi8(1));
    planes[BIT_1][at] = _mm512_test_epi8_mask(below, _mm512_set1_epi8(2));
    planes[BIT_2][at] = _mm512_test_epi8_mask(below, _mm512_set1_epi8(4));
    planes[BIT_3][at] = _mm512_test_epi8_mask(below, _mm512_set1_epi8(8));
    planes[WITHIN][at] = within;
    planes[NEGATIVE][at] = negative;
    __mmask64 far = _mm512_mask_test_epi8_mask(~within, exponents, exponents);
    return far ? count_far(b, exponents, far, is_signed ? negative : 0) : 0;
}

/* How many values have each of the four lowest combinations, of those whose other bits are the ones asked for: 16 bits a count. */
WIDE INLINE uint64_t count_four(uint64_t planes[PLANES][WORDS], int words, __m512i flip2, __m512i flip3, __m512i flip_sign) {
    __m512i c0 = _mm512_setzero_si512(), c1 = c0, c2 = c0, c3 = c0;
    for (int i = 0; i < words; i += 8) {
        __m512i b0 = _mm512_loadu_si512(planes[BIT_0] + i), b1 = _mm512_loadu_si512(planes[BIT_1] + i);
        __m512i some = _mm512_loadu_si512(planes[WITHIN] + i);
        some = _mm512_ternarylogic_epi64(some, _mm512_loadu_si512(planes[BIT_2] + i), flip2, 0x60); /* a & (b ^ c) */
        some = _mm512_ternarylogic_epi64(some, _mm512_loadu_si512(planes[BIT_3] + i), flip3, 0x60);
        some = _mm512_ternarylogic_epi64(some, _mm512_loadu_si512(planes[NEGATIVE] + i), flip_sign, 0x60);
        c0 = _mm512_add_epi64(c0, _mm512_popcnt_epi64(_mm512_ternarylogic_epi64(some, b1, b0, 0x10))); /* a & ~b & ~c */
        c1 = _mm512_add_epi64(c1, _mm512_popcnt_epi64(_mm512_ternarylogic_epi64(some, b1, b0, 0x20))); /* a & ~b & c */
        c2 = _mm512_add_epi64(c2, _mm512_popcnt_epi64(_mm512_ternarylogic_epi64(some, b1, b0, 0x40))); /* a & b & ~c */
        c3 = _mm512_add_epi64(c3, _mm512_popcnt_epi64(_mm512_ternarylogic_epi64(some, b1, b0, 0x80))); /* a & b & c */
    }
    __m512i low = _mm512_or_si512(c0, _mm512_slli_epi64(c1, 16)), high = _mm512_or_si512(c2, _mm512_slli_epi64(c3, 16));
    return (uint64_t)_mm512_reduce_add_epi64(_mm512_or_si512(low, _mm512_slli_epi64(high, 32)));
}

/* Count the values of a block without NaN and Inf, the greatest of which has the exponent `top`; how many lay below the window. */
WIDE static int64_t count_by_planes(Buckets *b, const float *x, int n, int top, const Moments *m) {
    uint64_t planes[PLANES][WORDS];
    __m512i greatest = _mm512_set1_epi8((char)top);
    int whole = n / 64, words = whole, counted = 0, has_negative = m->min < 0;
    float rest[64] = {0}; /* zeros lie below the window */
    if (has_negative)
        for (int i = 0; i < whole; i++)
            counted += slice(b, x + i * 64, greatest, planes, i, 1);
    else
        for (int i = 0; i < whole; i++)
            counted += slice(b, x + i * 64, greatest, planes, i, 0);
    if (n > whole * 64) {
        memcpy(rest, x + whole * 64, (size_t)(n - whole * 64) * sizeof *rest);
        counted += slice(b, rest, greatest, planes, words++, 1);
    }
    for (; words % 8; words++)
        for (int p = 0; p < PLANES; p++)
            planes[p][words] = 0;
    int far = counted;
    __m512i all = _mm512_set1_epi64(-1), none = _mm512_setzero_si512();
    for (int sign = m->max > 0 ? 0 : 1; sign <= has_negative; sign++)
        for (int q = 0; q < 4; q++) {
            uint64_t four = count_four(planes, words, q & 1 ? none : all, q & 2 ? none : all, sign ? none : all);
            uint32_t *slot = b->counts[0] + top - 4 * q + 256 * sign;
            for (int k = 0; k < 4; k++, four >>= 16) {
                slot[-k] += (uint32_t)(four & 0xffff);
                counted += (int)(four & 0xffff);
            }
        }
    b->counts[0][0] += (uint32_t)(n - counted); /* zeros, and what is so small that it shares their slot */
    return far;
}
#endif
