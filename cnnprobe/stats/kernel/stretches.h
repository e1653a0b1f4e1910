/* A stretch of an array, and the channels of one. */
#pragma once
#include "histogram.h"
#include "moments.h"

/* Moments and histogram of a whole block by one read; 0 where nothing was written down and it must be read again. */
typedef int TakeAtOnce(Moments *into, Buckets *b, const float *x);

INLINE void stretch(const void *x, int dtype, int64_t start, int64_t stop, Moments *into, Buckets *buckets, int lanes, Widen *widen,
                    Count *count, TakeAtOnce *take_at_once) {
    float buffer[BLOCK];
    for (; start < stop; start += BLOCK) {
        int n = (int)(stop - start < BLOCK ? stop - start : BLOCK);
        if (dtype == FLOAT64) {
            const double *d = (const double *)x + start;
            take_doubles(into, d, n);
            if (buckets)
                count_doubles(buckets, d, n);
        } else {
            const float *f = as_floats(x, dtype, start, n, buffer, widen);
            if (take_at_once && buckets && buckets->top && n == BLOCK && take_at_once(into, buckets, f))
                continue;
            Moments m = take_floats(into, f, n, lanes);
            if (buckets)
                count_floats(buckets, f, n, &m, count);
        }
    }
}

/* ---- channels ----------------------------------------------------------------------------------------------------------------------- */

/* x[outer][channels][inner] */
INLINE void planes(const void *x, int dtype, const int64_t sizes[3], Moments *moments, Buckets *buckets, int lanes, Widen *widen, Count *count) {
    float buffer[BLOCK];
    int64_t channels = sizes[1], inner = sizes[2];
    for (int64_t plane = 0, c = 0; plane < sizes[0] * channels; plane++, c = c + 1 < channels ? c + 1 : 0) {
        Moments *into = moments + c;
        for (int64_t start = plane * inner, stop = start + inner; start < stop; start += BLOCK) {
            int n = (int)(stop - start < BLOCK ? stop - start : BLOCK);
            if (dtype == FLOAT64) {
                take_doubles(into, (const double *)x + start, n);
                if (buckets)
                    count_doubles(buckets, (const double *)x + start, n);
            } else {
                const float *f = as_floats(x, dtype, start, n, buffer, widen);
                Moments m = take_floats(into, f, n, lanes);
                if (buckets)
                    count_floats(buckets, f, n, &m, count);
            }
        }
    }
}

/* LANES channels (or the last few, `width`) of some positions, whose sums stay in registers. */
INLINE void take_tile(Moments *into, const float *x, int rows, int width, int64_t pitch, int64_t ahead) {
    float shift[LANES], s1[LANES], s2[LANES], low[LANES], high[LANES];
    int32_t zeros[LANES];
    for (int j = 0; j < LANES; j++) {
        shift[j] = j >= width ? 0 : (float)(into[j].n > 0 ? into[j].shift : x[j]);
        s1[j] = s2[j] = 0;
        low[j] = INFINITY;
        high[j] = -INFINITY;
        zeros[j] = 0;
    }
    for (int i = 0; i < rows; i++) {
        const float *row = x + i * pitch;
        float padded[LANES];
        if (width < LANES) {
            for (int j = 0; j < LANES; j++)
                padded[j] = j < width ? row[j] : 0;
            row = padded;
        } else {
            __builtin_prefetch(row + ahead);
        }
        for (int j = 0; j < LANES; j++) {
            float v = row[j], d = v - shift[j];
            s1[j] += d;
            s2[j] += d * d;
            low[j] = v < low[j] ? v : low[j];
            high[j] = v > high[j] ? v : high[j];
            zeros[j] += v == 0;
        }
    }
    for (int j = 0; j < width; j++) {
        Moments m = {rows, shift[j], s1[j], s2[j], low[j], high[j], zeros[j], 0, 0};
        /* Both troubles are settled value by value in double precision: one channel of a few rows. */
        int suspect = is_suspect(&m, 1e-30), far = !suspect && is_far(&m, 1);
        if (suspect || far)
            m = floats_careful(x + j, rows, pitch);
        if (far)
            reshift(&m, (float)(m.shift + m.s1 / m.n));
        add_around(into + j, m, far);
    }
}

/* x[outer][channels]: channels lie innermost */
INLINE void pixels(const void *x, int dtype, const int64_t sizes[3], Moments *moments, Buckets *buckets, Widen *widen) {
    float buffer[ROWS * LANES];
    int64_t channels = sizes[1];
    for (int64_t start = 0; start < sizes[0]; start += ROWS) {
        int rows = (int)(sizes[0] - start < ROWS ? sizes[0] - start : ROWS);
        for (int64_t first = 0; first < channels; first += LANES) {
            int width = (int)(channels - first < LANES ? channels - first : LANES);
            const float *f = (const float *)x + start * channels + first;
            int64_t pitch = channels;
            if (dtype != FLOAT32) {
                for (int i = 0; i < rows; i++)
                    as_floats(x, dtype, (start + i) * channels + first, width, buffer + i * width, widen);
                f = buffer;
                pitch = width;
            }
            take_tile(moments + first, f, rows, width, pitch, dtype == FLOAT32 ? 16 * channels : 0);
            for (int i = 0; buckets && i < rows; i++)
                count_each(buckets, f + i * pitch, width);
        }
    }
}
