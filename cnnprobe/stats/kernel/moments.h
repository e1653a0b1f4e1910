/* Moments that add up, and those of one block. */
#pragma once
#include "common.h"

/* Express the sums of `m` around another shift. */
INLINE void reshift(Moments *m, double shift) {
    double e = m->shift - shift;
    m->s2 += 2 * e * m->s1 + m->n * e * e;
    m->s1 += m->n * e;
    m->shift = shift;
}

INLINE void add(Moments *into, Moments part) {
    if (part.n > 0) {
        if (into->n == 0)
            into->shift = part.shift;
        else if (part.shift != into->shift)
            reshift(&part, into->shift);
        into->n += part.n;
        into->s1 += part.s1;
        into->s2 += part.s2;
        into->min = part.min < into->min ? part.min : into->min;
        into->max = part.max > into->max ? part.max : into->max;
    }
    into->zeros += part.zeros;
    into->nan += part.nan;
    into->inf += part.inf;
}

/* A block around a new shift is a hint that the old one was poor for what comes. */
INLINE void add_around(Moments *into, Moments part, int far) {
    if (far && into->n > 0)
        reshift(into, part.shift);
    add(into, part);
}

static void mean_and_std(const Moments *m, double *mean, double *std, double *squares) {
    double n = m->n, d = m->s1 / n, m2 = m->s2 - m->s1 * d;
    if (n == 0) {
        *mean = *std = NAN;
        *squares = 0;
        return;
    }
    m2 = m2 > 0 ? m2 : 0;
    *mean = m->min == m->max ? m->min : m->shift + d;
    *std = m->min == m->max ? 0 : sqrt(m2 / n);
    *squares = (m->min == m->max ? 0 : m2) + n * *mean * *mean;
}

static void write_row(const Moments *m, double *row) {
    double squares;
    row[AT_COUNT] = m->n + (double)m->nan + (double)m->inf;
    mean_and_std(m, &row[AT_MEAN], &row[AT_STD], &squares);
    row[AT_MIN] = m->n > 0 ? m->min : NAN;
    row[AT_MAX] = m->n > 0 ? m->max : NAN;
    row[AT_ZEROS] = (double)m->zeros;
    row[AT_NAN] = (double)m->nan;
    row[AT_INF] = (double)m->inf;
    row[AT_L2] = sqrt(squares);
    row[AT_WRITTEN] = 1;
}

/* Squares of doubles overflow and underflow where no wider type is left to sum them in. */
static int is_out_of_range(int dtype, const Moments *m) {
    double low = fabs(m->min), high = fabs(m->max), greatest = low > high ? low : high;
    return dtype == FLOAT64 && m->n > 0 && greatest != 0 && !(greatest < 1e140 && greatest > 1e-140);
}

/* ---- one block ---------------------------------------------------------------------------------------------------------------------- */

#define DEFINE_BLOCK(REAL, COUNT, NAME, LANES)                                                                                                      \
    INLINE Moments NAME(const REAL *x, int n, REAL shift) {                                                                                  \
        REAL s1[LANES], s2[LANES], low[LANES], high[LANES];                                                                                  \
        COUNT zeros[LANES];                                                                                                                  \
        for (int j = 0; j < LANES; j++) {                                                                                                    \
            s1[j] = s2[j] = 0;                                                                                                               \
            low[j] = INFINITY;                                                                                                               \
            high[j] = -INFINITY;                                                                                                             \
            zeros[j] = 0;                                                                                                                    \
        }                                                                                                                                    \
        int i = 0;                                                                                                                           \
        for (; i + LANES <= n; i += LANES) {                                                                                                 \
            for (int line = 0; line < LANES * (int)sizeof *x; line += 64)                                                                    \
                __builtin_prefetch((const char *)(x + i) + AHEAD + line);                                                                    \
            for (int j = 0; j < LANES; j++) {                                                                                                \
                REAL v = x[i + j], d = v - shift;                                                                                            \
                s1[j] += d;                                                                                                                  \
                s2[j] += d * d;                                                                                                              \
                low[j] = v < low[j] ? v : low[j];                                                                                            \
                high[j] = v > high[j] ? v : high[j];                                                                                         \
                zeros[j] += v == 0;                                                                                                          \
            }                                                                                                                                \
        }                                                                                                                                    \
        for (int w = LANES / 2; w >= 4; w /= 2)                                                                                              \
            for (int j = 0; j < w; j++) {                                                                                                    \
                s1[j] += s1[j + w];                                                                                                          \
                s2[j] += s2[j + w];                                                                                                          \
                low[j] = low[j + w] < low[j] ? low[j + w] : low[j];                                                                          \
                high[j] = high[j + w] > high[j] ? high[j + w] : high[j];                                                                     \
                zeros[j] += zeros[j + w];                                                                                                    \
            }                                                                                                                                \
        Moments m = {n, shift, 0, 0, low[0], high[0], 0, 0, 0};                                                                              \
        for (int j = 0; j < 4; j++) {                                                                                                        \
            m.s1 += s1[j];                                                                                                                   \
            m.s2 += s2[j];                                                                                                                   \
            m.min = low[j] < m.min ? low[j] : m.min;                                                                                         \
            m.max = high[j] > m.max ? high[j] : m.max;                                                                                       \
            m.zeros += zeros[j];                                                                                                             \
        }                                                                                                                                    \
        for (; i < n; i++) {                                                                                                                 \
            REAL v = x[i];                                                                                                                   \
            double d = (double)v - shift;                                                                                                    \
            m.s1 += d;                                                                                                                       \
            m.s2 += d * d;                                                                                                                   \
            m.min = v < m.min ? v : m.min;                                                                                                   \
            m.max = v > m.max ? v : m.max;                                                                                                   \
            m.zeros += v == 0;                                                                                                               \
        }                                                                                                                                    \
        return m;                                                                                                                            \
    }

/* Value by value, `stride` apart: NaN and Inf are counted, the rest is summed in double precision. */
#define DEFINE_CAREFUL(REAL, NAME)                                                                                                           \
    static Moments NAME##_careful(const REAL *x, int n, int64_t stride) {                                                                    \
        Moments m = NOTHING;                                                                                                                 \
        for (int i = 0; i < n; i++) {                                                                                                        \
            double v = x[i * stride];                                                                                                        \
            if (isnan(v)) {                                                                                                                  \
                m.nan++;                                                                                                                     \
            } else if (isinf(v)) {                                                                                                           \
                m.inf++;                                                                                                                     \
            } else {                                                                                                                         \
                if (m.n == 0)                                                                                                                \
                    m.shift = v;                                                                                                             \
                double d = v - m.shift;                                                                                                      \
                m.n++;                                                                                                                       \
                m.s1 += d;                                                                                                                   \
                m.s2 += d * d;                                                                                                               \
                m.min = v < m.min ? v : m.min;                                                                                               \
                m.max = v > m.max ? v : m.max;                                                                                               \
                m.zeros += v == 0;                                                                                                           \
            }                                                                                                                                \
        }                                                                                                                                    \
        return m;                                                                                                                            \
    }

DEFINE_CAREFUL(float, floats)
DEFINE_CAREFUL(double, doubles)
DEFINE_BLOCK(float, int32_t, floats, 16)
DEFINE_BLOCK(float, int32_t, floats_by_32, 32) /* two sums of each kind take turns, where there are registers for it */
DEFINE_BLOCK(double, int64_t, doubles, 16)

/* Whether the sums of a block cannot be trusted: NaN or Inf among the values, or squares beyond the ends of the type. */
INLINE int is_suspect(const Moments *m, double least) { return !isfinite(m->s2) || (m->s2 < least && m->min < m->max); }

/* Whether the mean lies so far from the shift that the deviations lose digits: `bound` squared standard deviations. */
INLINE int is_far(const Moments *m, double bound) {
    return (1 + bound) * m->s1 * m->s1 > bound * m->n * m->s2; /* d * d > bound * (s2 / n - d * d), without divisions */
}

INLINE Moments sum_floats(const float *x, int n, float shift, int lanes) {
    return lanes == 32 ? floats_by_32(x, n, shift) : floats(x, n, shift);
}

INLINE Moments take_floats(Moments *into, const float *x, int n, int lanes) {
    Moments m = sum_floats(x, n, (float)(into->n > 0 ? into->shift : x[0]), lanes);
    int far = 0;
    if (!is_suspect(&m, 1e-30) && is_far(&m, into->n > 0 ? 4 : 0.1)) { /* the first block's mean is the shift of those that follow */
        m = sum_floats(x, n, (float)(m.shift + m.s1 / m.n), lanes);
        far = 1;
    }
    if (is_suspect(&m, 1e-30))
        m = floats_careful(x, n, 1);
    add_around(into, m, far);
    return m;
}

INLINE void take_doubles(Moments *into, const double *x, int n) {
    Moments m = doubles(x, n, into->n > 0 ? into->shift : x[0]);
    int far = 0;
    if (!is_suspect(&m, 0) && is_far(&m, 1e4)) {
        m = doubles(x, n, m.shift + m.s1 / m.n);
        far = 1;
    }
    if (is_suspect(&m, 0))
        m = doubles_careful(x, n, 1);
    add_around(into, m, far);
}
