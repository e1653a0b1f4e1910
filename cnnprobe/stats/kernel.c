/* Statistics of an array in one pass: count, mean, std, min, max, zeros, NaN, Inf, L2 norm; a histogram of magnitudes; the same per channel.
 * And how far two arrays are apart, in one pass too.
 *
 * A plain shared library: it knows nothing of Python or torch, so that one build serves every version of both.
 *
 * Blocks of 4096 values, which stay in the first-level cache, are summed in the array's own precision around a shift near their mean, so that no
 * large mean swallows the deviations; the sums of blocks add up in double precision. A block whose mean lies far from the shift is summed again
 * around its own mean, a block whose squares overflow, underflow or hold NaN or Inf value by value in double precision.
 * Never build it with -ffast-math: it counts NaN and Inf, and linking with that flag would flush the denormals of the whole process.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if !defined(_WIN32)
#include <pthread.h>
#endif
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
enum { DONE = 0, OUT_OF_RANGE = 1, OUT_OF_MEMORY = 2, UNSUPPORTED = 3, FULL = 4, NOT_FINITE = 5 };
static const int SIZES[] = {4, 8, 2, 2};

/* Moments of values: n finite ones, their sum and sum of squares around `shift`. */
typedef struct {
    double n, shift, s1, s2, min, max;
    int64_t zeros, nan, inf;
} Moments;

typedef struct {
    uint32_t counts[TABLES][SLOTS];
    int misses; /* blocks still to be counted one by one */
} Buckets;

typedef uint8_t Bytes __attribute__((vector_size(32)));

static const Moments NOTHING = {0, 0, 0, 0, INFINITY, -INFINITY, 0, 0, 0};

#ifndef KERNEL_HASH
#define KERNEL_HASH "unknown"
#endif
EXPORT const char *cnnprobe_version(void) { return KERNEL_HASH; }

/* ---- moments that add up ------------------------------------------------------------------------------------------------------------ */

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

/* count, mean, std, min, max, zeros, nan, inf, l2, 1 */
static void write_row(const Moments *m, double *row) {
    double squares;
    row[0] = m->n + (double)m->nan + (double)m->inf;
    mean_and_std(m, &row[1], &row[2], &squares);
    row[3] = m->n > 0 ? m->min : NAN;
    row[4] = m->n > 0 ? m->max : NAN;
    row[5] = (double)m->zeros;
    row[6] = (double)m->nan;
    row[7] = (double)m->inf;
    row[8] = sqrt(squares);
    row[9] = 1;
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
            __builtin_prefetch((const char *)(x + i) + AHEAD);                                                                               \
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
    }                                                                                                                                        \
    /* Value by value, `stride` apart: NaN and Inf are counted, the rest is summed in double precision. */                                   \
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

DEFINE_BLOCK(float, int32_t, floats, 16)
DEFINE_BLOCK(double, int64_t, doubles, 16)

/* Whether the sums of a block cannot be trusted: NaN or Inf among the values, or squares beyond the ends of the type. */
INLINE int is_suspect(const Moments *m, double least) { return !isfinite(m->s2) || (m->s2 < least && m->min < m->max); }

/* Whether the mean lies so far from the shift that the deviations lose digits: `bound` squared standard deviations. */
INLINE int is_far(const Moments *m, double bound) {
    return (1 + bound) * m->s1 * m->s1 > bound * m->n * m->s2; /* d * d > bound * (s2 / n - d * d), without divisions */
}

INLINE Moments take_floats(Moments *into, const float *x, int n) {
    Moments m = floats(x, n, (float)(into->n > 0 ? into->shift : x[0]));
    int far = 0;
    if (!is_suspect(&m, 1e-30) && is_far(&m, 4)) {
        m = floats(x, n, (float)(m.shift + m.s1 / m.n));
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

/* ---- other precisions, widened in the first-level cache ----------------------------------------------------------------------------- */

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

/* ---- histogram ---------------------------------------------------------------------------------------------------------------------- */

INLINE void count_each(Buckets *b, const float *x, int n) {
    int i = 0;
    for (; i + 4 <= n; i += 4) {
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

/* Nearly all values of a block lie within WINDOW powers of two of its greatest: bytes compared by vectors count those four times as fast as
 * increments do. What lies below is counted one by one. A block with NaN or Inf, or so small that zeros come into the window, goes the slow way. */
INLINE void count_floats(Buckets *b, const float *x, int n, const Moments *m) {
    uint8_t keys[BLOCK];
    int high = exponent_of(m->max), low = exponent_of(m->min), top = high > low ? high : low;
    int is_plain = m->n == n && top > WINDOW && n >= 512;
    if (!is_plain || b->misses > 0) {
        b->misses -= b->misses > 0;
        count_each(b, x, n);
        return;
    }
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
    if (missed > n / 16)
        b->misses = 16; /* values spread so widely: let the next blocks go the slow way at once */
    b->counts[0][0] += (uint32_t)m->zeros;
    for (int i = 0; missed > 0 && i < n; i++)
        if ((keys[i] & FAR_BELOW) >= WINDOW && x[i] != 0) {
            uint32_t bits;
            memcpy(&bits, x + i, 4);
            b->counts[0][bits >> 23]++;
            missed--;
        }
}

INLINE void count_doubles(Buckets *b, const double *x, int n) {
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
    for (int t = 0; t < TABLES; t++)
        for (int i = 0; i < SLOTS; i++)
            histogram[i] += b->counts[t][i];
    memset(b->counts, 0, sizeof b->counts);
}

/* ---- a stretch of an array ---------------------------------------------------------------------------------------------------------- */

INLINE void stretch(const void *x, int dtype, int64_t start, int64_t stop, Moments *into, Buckets *buckets, Widen *widen) {
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
            Moments m = take_floats(into, f, n);
            if (buckets)
                count_floats(buckets, f, n, &m);
        }
    }
}

/* ---- channels ----------------------------------------------------------------------------------------------------------------------- */

/* x[outer][channels][inner] */
INLINE void planes(const void *x, int dtype, const int64_t sizes[3], Moments *moments, Buckets *buckets, Widen *widen) {
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
                Moments m = take_floats(into, f, n);
                if (buckets)
                    count_floats(buckets, f, n, &m);
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

/* ---- the same for each kind of processor --------------------------------------------------------------------------------------------- */

/* ---- how far two arrays are apart ----------------------------------------------------------------------------------------------------- */

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

typedef struct {
    void (*stretch)(const void *, int, int64_t, int64_t, Moments *, Buckets *);
    void (*planes)(const void *, int, const int64_t[3], Moments *, Buckets *);
    void (*pixels)(const void *, int, const int64_t[3], Moments *, Buckets *);
    void (*gap)(const void *, const void *, int, int64_t, int64_t, const Allowed *, Gap *);
} Variant;

#define DEFINE_VARIANT(NAME, TARGET, WIDEN)                                                                                                  \
    TARGET static void NAME##_stretch(const void *x, int dtype, int64_t start, int64_t stop, Moments *into, Buckets *buckets) {              \
        stretch(x, dtype, start, stop, into, buckets, WIDEN);                                                                                \
    }                                                                                                                                        \
    TARGET static void NAME##_planes(const void *x, int dtype, const int64_t sizes[3], Moments *moments, Buckets *buckets) {                 \
        planes(x, dtype, sizes, moments, buckets, WIDEN);                                                                                    \
    }                                                                                                                                        \
    TARGET static void NAME##_pixels(const void *x, int dtype, const int64_t sizes[3], Moments *moments, Buckets *buckets) {                 \
        pixels(x, dtype, sizes, moments, buckets, WIDEN);                                                                                    \
    }                                                                                                                                        \
    TARGET static void NAME##_gap(const void *x, const void *y, int dtype, int64_t start, int64_t stop, const Allowed *a, Gap *gap) {        \
        gap_between(x, y, dtype, start, stop, a, gap, WIDEN);                                                                                \
    }                                                                                                                                        \
    static const Variant NAME = {NAME##_stretch, NAME##_planes, NAME##_pixels, NAME##_gap};

DEFINE_VARIANT(basic, , widen_half)
#if defined(__x86_64__)
__attribute__((target("avx2,fma,f16c"))) static void widen_half_f16c(const uint16_t *h, float *to, int n) {
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(h + i))));
    for (; i < n; i++)
        to[i] = from_half(h[i]);
}
DEFINE_VARIANT(avx2, __attribute__((target("avx2,fma,f16c"))), widen_half_f16c)
DEFINE_VARIANT(avx512, __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"))), widen_half_f16c)
#endif

static const Variant *variant(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return &avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &avx2;
#endif
    return &basic;
}

/* ---- what can be called --------------------------------------------------------------------------------------------------------------- */

typedef struct {
    const void *x;
    int dtype;
    int64_t start, stop;
    Moments moments;
    int64_t *histogram; /* null, or SLOTS counts of its own */
} Share;

static void *work(void *argument) {
    Share *share = argument;
    Buckets buckets;
    memset(&buckets, 0, sizeof buckets);
    share->moments = NOTHING;
    for (int64_t start = share->start; start < share->stop; start += 1 << 30) { /* counts of 32 bits */
        int64_t stop = share->stop - start < 1 << 30 ? share->stop : start + (1 << 30);
        variant()->stretch(share->x, share->dtype, start, stop, &share->moments, share->histogram ? &buckets : 0);
        if (share->histogram)
            flush(&buckets, share->histogram);
    }
    return 0;
}

static int shares_of(int64_t bytes, int threads) {
    int64_t worth = bytes / THREAD_BYTES;
    int shares = worth < threads ? (int)worth : threads;
    shares = shares > MAX_THREADS ? MAX_THREADS : shares;
    return shares < 1 ? 1 : shares;
}

/* Every share by `work`, the first one here and the others each on a thread of its own. */
static void work_on_each(void *(*work)(void *), char *shares, size_t size, int k) {
#if !defined(_WIN32)
    pthread_t started[MAX_THREADS];
    int is_started[MAX_THREADS] = {0};
    for (int i = 1; i < k; i++)
        is_started[i] = pthread_create(&started[i], 0, work, shares + size * (size_t)i) == 0;
    work(shares);
    for (int i = 1; i < k; i++)
        if (is_started[i])
            pthread_join(started[i], 0);
        else
            work(shares + size * (size_t)i);
#else
    for (int i = 0; i < k; i++)
        work(shares + size * (size_t)i);
#endif
}

/* The statistics of `count` values at `x` into row[0..9], and their histogram where asked for. */
EXPORT int cnnprobe_measure(const void *x, int dtype, int64_t count, double *row, int64_t *histogram, int threads) {
    if (!x && count)
        return UNSUPPORTED;
    Share shares[MAX_THREADS];
    int k = shares_of(count * SIZES[dtype], threads);
    int64_t *counts = histogram ? calloc((size_t)k * SLOTS, sizeof *counts) : 0;
    if (histogram && !counts)
        return OUT_OF_MEMORY;
    int64_t each = (count / k + BLOCK - 1) / BLOCK * BLOCK;
    for (int i = 0; i < k; i++) {
        int64_t start = each * i < count ? each * i : count, stop = i == k - 1 || start + each > count ? count : start + each;
        shares[i] = (Share){x, dtype, start, stop, NOTHING, counts ? counts + i * SLOTS : 0};
    }
    work_on_each(work, (char *)shares, sizeof *shares, k);
    Moments whole = NOTHING;
    for (int i = 0; i < k; i++)
        add(&whole, shares[i].moments);
    if (histogram) {
        memset(histogram, 0, SLOTS * sizeof *histogram);
        for (int i = 0; i < k * SLOTS; i++)
            histogram[i % SLOTS] += counts[i];
        free(counts);
        write_histogram(x, dtype, count, whole.zeros, histogram);
    }
    write_row(&whole, row);
    return is_out_of_range(dtype, &whole) ? OUT_OF_RANGE : DONE;
}

typedef struct {
    const void *x, *y;
    int dtype;
    int64_t start, stop;
    const Allowed *allowed;
    Gap gap;
} Stretch;

static void *look_for_gap(void *argument) {
    Stretch *s = argument;
    s->gap = NO_GAP;
    variant()->gap(s->x, s->y, s->dtype, s->start, s->stop, s->allowed, &s->gap);
    return 0;
}

/* How far `count` values at `x` are from those at `y`: found = {how many are beyond, where the farthest is, its distance, the greatest relative one}. */
EXPORT void cnnprobe_gap(const void *x, const void *y, int dtype, int64_t count, const Allowed *allowed, int threads, double *found) {
    Stretch stretches[MAX_THREADS];
    int k = shares_of(2 * count * SIZES[dtype], threads);
    int64_t each = (count / k + PIECE - 1) / PIECE * PIECE;
    for (int i = 0; i < k; i++) {
        int64_t start = each * i < count ? each * i : count, stop = i == k - 1 || start + each > count ? count : start + each;
        stretches[i] = (Stretch){x, y, dtype, start, stop, allowed, NO_GAP};
    }
    work_on_each(look_for_gap, (char *)stretches, sizeof *stretches, k);
    Gap whole = NO_GAP;
    for (int i = 0; i < k; i++) {
        const Gap *part = &stretches[i].gap;
        whole.beyond += part->beyond;
        whole.relative = part->relative > whole.relative ? part->relative : whole.relative;
        if (part->greatest > whole.greatest) {
            whole.greatest = part->greatest;
            whole.at = part->at;
        }
    }
    found[0] = (double)whole.beyond;
    found[1] = (double)whole.at;
    found[2] = whole.greatest;
    found[3] = whole.relative;
}

/* Statistics of the whole and of each channel: `by_channel` is count, mean, std, zeros, non-finite values, `channels` doubles each.
 * sizes = {outer, channels, inner}; inner 1 says that the channels lie innermost. */
EXPORT int cnnprobe_channels(const void *x, int dtype, const int64_t sizes[3], double *row, double *by_channel, int64_t *histogram) {
    int64_t channels = sizes[1], count = sizes[0] * channels * sizes[2];
    if (!x || (dtype == FLOAT64 && sizes[2] == 1) || count >= (int64_t)1 << 32) /* counts of 32 bits */
        return UNSUPPORTED;
    Moments *moments = malloc((size_t)(channels ? channels : 1) * sizeof *moments), whole = NOTHING;
    Buckets *buckets = histogram ? calloc(1, sizeof *buckets) : 0;
    if (!moments || (histogram && !buckets)) {
        free(moments);
        free(buckets);
        return OUT_OF_MEMORY;
    }
    for (int64_t c = 0; c < channels; c++)
        moments[c] = NOTHING;
    (sizes[2] == 1 ? variant()->pixels : variant()->planes)(x, dtype, sizes, moments, buckets);
    int status = DONE;
    for (int64_t c = 0; c < channels; c++) {
        const Moments *m = moments + c;
        double squares, *at = by_channel + c;
        at[0] = m->n + (double)m->nan + (double)m->inf;
        mean_and_std(m, at + channels, at + 2 * channels, &squares);
        at[3 * channels] = (double)m->zeros;
        at[4 * channels] = (double)(m->nan + m->inf);
        if (is_out_of_range(dtype, m))
            status = OUT_OF_RANGE;
        add(&whole, *m);
    }
    if (histogram) {
        memset(histogram, 0, SLOTS * sizeof *histogram);
        flush(buckets, histogram);
        write_histogram(x, dtype, count, whole.zeros, histogram);
    }
    free(moments);
    free(buckets);
    write_row(&whole, row);
    return status;
}

/* ---- a sheet: row after row, as a training step fills them ------------------------------------------------------------------------------ */

#define WIDTH 16 /* doubles in a row */
#define SLOT 10  /* the column that says what a row is about */

typedef struct {
    double *rows;
    int64_t *histograms; /* null, or SLOTS counts a row */
    int64_t next, capacity;
} Sheet;

/* What is measured again and again: few arguments a call, as each costs as much as measuring a small tensor. */
typedef struct {
    Sheet *sheet;
    int64_t slot, dtype, threads;
} Cell;

typedef struct {
    int64_t sizes[3];
    double *fired; /* nonzero values seen in each channel; added to */
} Plan;

typedef struct {
    const void *x;
    int64_t count;
    const Cell *cell;
    int64_t status;
} Job;

static double *take_row(const Cell *cell, int64_t **histogram) {
    Sheet *sheet = cell->sheet;
    if (sheet->next >= sheet->capacity)
        return 0;
    int64_t at = sheet->next++;
    *histogram = sheet->histograms ? sheet->histograms + at * SLOTS : 0;
    double *row = sheet->rows + at * WIDTH;
    row[SLOT] = (double)cell->slot;
    row[9] = 0; /* until it is written */
    return row;
}

/* NOT_FINITE is no failure: the row is there, and worth a look at once. */
static int finished(double *row, int status) {
    row[9] = status == DONE;
    return status == DONE && (row[6] > 0 || row[7] > 0) ? NOT_FINITE : status;
}

/* The statistics of `count` values at `x` into the next row of the cell's sheet. */
EXPORT int cnnprobe_record(const void *x, int64_t count, const Cell *cell) {
    int64_t *histogram;
    double *row = take_row(cell, &histogram);
    if (!row)
        return FULL;
    int status = cnnprobe_measure(x, (int)cell->dtype, count, row, histogram, (int)cell->threads);
    return finished(row, status);
}

/* The same, and how many values of each channel are not zero. */
EXPORT int cnnprobe_record_channels(const void *x, const Cell *cell, const Plan *plan) {
    int64_t *histogram, channels = plan->sizes[1];
    double *row = take_row(cell, &histogram), *by_channel = row ? malloc((size_t)(channels ? channels : 1) * 5 * sizeof *by_channel) : 0;
    if (!row)
        return FULL;
    int status = by_channel ? cnnprobe_channels(x, (int)cell->dtype, plan->sizes, row, by_channel, histogram) : OUT_OF_MEMORY;
    if (status == DONE)
        for (int64_t c = 0; c < channels; c++)
            plan->fired[c] += by_channel[c] - by_channel[3 * channels + c];
    free(by_channel);
    return finished(row, status);
}

/* The last row once more, for another cell. */
EXPORT int cnnprobe_repeat(const Cell *cell) {
    int64_t *histogram, source = cell->sheet->next - 1;
    if (source < 0)
        return UNSUPPORTED;
    double *row = take_row(cell, &histogram);
    if (!row)
        return FULL;
    memcpy(row, cell->sheet->rows + source * WIDTH, SLOT * sizeof *row);
    if (histogram)
        memcpy(histogram, cell->sheet->histograms + source * SLOTS, SLOTS * sizeof *histogram);
    return DONE;
}

/* A row for each job; its status is left there. */
EXPORT void cnnprobe_record_each(Job *jobs, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        jobs[i].status = cnnprobe_record(jobs[i].x, jobs[i].count, jobs[i].cell);
}

static int64_t bytes_of(const Job *job) { return (job->count * SIZES[job->cell->dtype] + 63) / 64 * 64; }

/* A copy of every job's values, one after the other, each at a multiple of 64 bytes. */
EXPORT void cnnprobe_keep(const Job *jobs, int64_t n, char *to) {
    for (int64_t i = 0; i < n; to += bytes_of(&jobs[i++]))
        memcpy(to, jobs[i].x, (size_t)(jobs[i].count * SIZES[jobs[i].cell->dtype]));
}

INLINE float from_brain(uint16_t h) { return from_bits((uint32_t)h << 16); }

#define DEFINE_CHANGE(TYPE, NAME, VALUE)                                                                                                     \
    static double NAME(const void *now, const void *before, int64_t count) {                                                                 \
        const TYPE *x = now, *y = before;                                                                                                    \
        double sums[8] = {0};                                                                                                                \
        int64_t i = 0;                                                                                                                       \
        for (; i + 8 <= count; i += 8)                                                                                                       \
            for (int j = 0; j < 8; j++) {                                                                                                    \
                double d = (double)VALUE(x[i + j]) - (double)VALUE(y[i + j]);                                                                \
                sums[j] += d * d;                                                                                                            \
            }                                                                                                                                \
        for (; i < count; i++) {                                                                                                             \
            double d = (double)VALUE(x[i]) - (double)VALUE(y[i]);                                                                            \
            sums[0] += d * d;                                                                                                                \
        }                                                                                                                                    \
        return sqrt(((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7])));                              \
    }
DEFINE_CHANGE(float, change_of_floats, )
DEFINE_CHANGE(double, change_of_doubles, )
DEFINE_CHANGE(uint16_t, change_of_halves, from_half)
DEFINE_CHANGE(uint16_t, change_of_brains, from_brain)

/* The L2 norm of what each job's values have changed by since they were kept. */
EXPORT void cnnprobe_changes(const Job *jobs, int64_t n, const char *kept, double *norms) {
    static double (*const of[])(const void *, const void *, int64_t) = {change_of_floats, change_of_doubles, change_of_halves, change_of_brains};
    for (int64_t i = 0; i < n; kept += bytes_of(&jobs[i++]))
        norms[i] = of[jobs[i].cell->dtype](jobs[i].x, kept, jobs[i].count);
}
