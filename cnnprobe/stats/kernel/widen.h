/* Other precisions, widened to float32 in the first-level cache. */
#pragma once
#include "common.h"

INLINE float from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* Without branches and without conversion instructions, so that every target's vectors can do it. */
INLINE float from_half(uint16_t h) {
    uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13;
    uint32_t special = (h & 0x7c00) == 0x7c00 ? 0xffffffffu : 0;
    uint32_t tiny = (h & 0x7c00) == 0 ? 0xffffffffu : 0;
    float denormal = from_bits(magnitude + (113u << 23)) - from_bits(113u << 23);
    uint32_t small;
    memcpy(&small, &denormal, 4);
    uint32_t bits = (tiny & small) | (~tiny & (magnitude + (112u << 23))) | (special & (255u << 23));
    return from_bits(bits | (uint32_t)(h & 0x8000) << 16);
}

typedef void Widen(const uint16_t *, float *, int);

static void widen_half(const uint16_t *h, float *to, int n) {
    for (int i = 0; i < n; i++)
        to[i] = from_half(h[i]);
}

INLINE const float *as_floats(const void *x, int dtype, int64_t start, int n, float *buffer, Widen *widen) {
    if (dtype == FLOAT32)
        return (const float *)x + start;
    const uint16_t *h = (const uint16_t *)x + start;
    for (int i = 0; i < n; i += 32)
        __builtin_prefetch((const char *)(h + i) + AHEAD);
    if (dtype == FLOAT16) {
        widen(h, buffer, n);
    } else {
        for (int i = 0; i < n; i++)
            buffer[i] = from_bits((uint32_t)h[i] << 16);
    }
    return buffer;
}
