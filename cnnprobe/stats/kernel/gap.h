/* How far two arrays are apart. */
#pragma once
#include "widen.h"

/* Values beyond the tolerance: how many, the greatest difference and where it is first, the greatest relative one. */
typedef struct {
    int64_t beyond, at;
    double greatest, relative;
} Gap;

typedef struct {
    double rtol, atol;
    int equal_nan;
} Allowed;

static const Gap NO_GAP = {0, -1, -1, 0};

/* torch.isclose and torch.testing.assert_close, value by value: equal ones are close, also if infinite; others with a NaN or Inf are not.
 * `bound` is |rtol * y|, rounded as torch rounds it: the sum with atol must not become one fused operation, so it comes from memory. */
#define DEFINE_GAP(REAL, COUNT, NAME, ABSOLUTE, GREATEST)                                                                                    \
    static void NAME##_careful(const REAL *x, const REAL *y, const REAL *bound, int n, REAL atol, int equal_nan, int64_t start, Gap *gap) {  \
        for (int i = 0; i < n; i++) {                                                                                                        \
            REAL d = ABSOLUTE(x[i] - y[i]);                                                                                                  \
            if (x[i] == y[i] || (equal_nan && isnan(x[i]) && isnan(y[i])) || (d <= GREATEST && d <= atol + bound[i]))                        \
                continue;                                                                                                                    \
            d = isnan(d) ? (REAL)INFINITY : d;                                                                                               \
            REAL relative = d / ABSOLUTE(y[i]);                                                                                              \
            gap->beyond++;                                                                                                                   \
            gap->relative = relative <= gap->relative ? gap->relative : isnan(relative) ? INFINITY : relative;                               \
            if (d > gap->greatest) {                                                                                                         \
                gap->greatest = d;                                                                                                           \
                gap->at = start + i;                                                                                                         \
            }                                                                                                                                \
        }                                                                                                                                    \
    }                                                                                                                                        \
    INLINE void NAME(const REAL *x, const REAL *y, int n, const Allowed *allowed, int64_t start, Gap *gap) {                                 \
        REAL bound[PIECE], greatest[LANES], ratio[LANES], rtol = (REAL)allowed->rtol, atol = (REAL)allowed->atol;                            \
        COUNT beyond[LANES], strange[LANES];                                                                                                 \
        for (int j = 0; j < LANES; j++) {                                                                                                    \
            greatest[j] = ratio[j] = 0;                                                                                                      \
            beyond[j] = strange[j] = 0;                                                                                                      \
        }                                                                                                                                    \
        for (int i = 0; i < n; i++)                                                                                                          \
            bound[i] = ABSOLUTE(rtol * y[i]);                                                                                                \
        int i = 0;                                                                                                                           \
        for (; i + LANES <= n; i += LANES)                                                                                                   \
            for (int j = 0; j < LANES; j++) {                                                                                                \
                REAL v = y[i + j], d = ABSOLUTE(x[i + j] - v), most = atol + bound[i + j];                                                   \
                REAL excess = d <= most ? 0 : d, relative = excess / ABSOLUTE(v); /* 0 / 0 is greater than nothing */                        \
                beyond[j] += !(d <= most);                                                                                                   \
                strange[j] += !(d <= GREATEST);                                                                                              \
                greatest[j] = excess > greatest[j] ? excess : greatest[j];                                                                   \
                ratio[j] = relative > ratio[j] ? relative : ratio[j];                                                                        \
            }                                                                                                                                \
        for (int j = 1; j < LANES; j++) {                                                                                                    \
            beyond[0] += beyond[j];                                                                                                          \
            strange[0] += strange[j];                                                                                                        \
            greatest[0] = greatest[j] > greatest[0] ? greatest[j] : greatest[0];                                                             \
            ratio[0] = ratio[j] > ratio[0] ? ratio[j] : ratio[0];                                                                            \
        }                                                                                                                                    \
        if (strange[0]) {                                                                                                                    \
            i = 0;                                                                                                                           \
        } else if (beyond[0]) {                                                                                                              \
            gap->beyond += beyond[0];                                                                                                        \
            gap->relative = ratio[0] > gap->relative ? ratio[0] : gap->relative;                                                             \
            if (greatest[0] > gap->greatest) {                                                                                               \
                int k = 0;                                                                                                                   \
                while (ABSOLUTE(x[k] - y[k]) != greatest[0] || ABSOLUTE(x[k] - y[k]) <= atol + bound[k])                                     \
                    k++;                                                                                                                     \
                gap->greatest = greatest[0];                                                                                                 \
                gap->at = start + k;                                                                                                         \
            }                                                                                                                                \
        }                                                                                                                                    \
        NAME##_careful(x + i, y + i, bound + i, n - i, atol, allowed->equal_nan, start + i, gap);                                            \
    }
DEFINE_GAP(float, int32_t, gap_of_floats, fabsf, 3.40282346638528859812e38f)
DEFINE_GAP(double, int64_t, gap_of_doubles, fabs, 1.79769313486231570815e308)

INLINE void gap_between(const void *x, const void *y, int dtype, int64_t start, int64_t stop, const Allowed *allowed, Gap *gap, Widen *widen) {
    float ours[PIECE], theirs[PIECE];
    for (; start < stop; start += PIECE) {
        int n = stop - start < PIECE ? (int)(stop - start) : PIECE;
        int64_t offset = start * SIZES[dtype];
        if (allowed->equal_nan && memcmp((const char *)x + offset, (const char *)y + offset, (size_t)n * (size_t)SIZES[dtype]) == 0)
            continue;
        if (dtype == FLOAT64)
            gap_of_doubles((const double *)x + start, (const double *)y + start, n, allowed, start, gap);
        else
            gap_of_floats(as_floats(x, dtype, start, n, ours, widen), as_floats(y, dtype, start, n, theirs, widen), n, allowed, start, gap);
    }
}
