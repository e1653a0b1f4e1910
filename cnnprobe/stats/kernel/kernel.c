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
#include "gap.h"
#include "hash.h"
#include "histogram.h"
#include "moments.h"
#include "one_hot.h"
#include "stretches.h"
#if !defined(_WIN32)
#include <pthread.h>
#endif

#ifndef KERNEL_HASH
#define KERNEL_HASH "unknown"
#endif
EXPORT const char *cnnprobe_version(void) { return KERNEL_HASH; }

/* ---- the same for each kind of processor --------------------------------------------------------------------------------------------- */

typedef struct {
    void (*stretch)(const void *, int, int64_t, int64_t, Moments *, Buckets *);
    void (*planes)(const void *, int, const int64_t[3], Moments *, Buckets *);
    void (*pixels)(const void *, int, const int64_t[3], Moments *, Buckets *);
    void (*gap)(const void *, const void *, int, int64_t, int64_t, const Allowed *, Gap *);
    uint64_t (*hash)(const char *, int64_t, char *);
} Variant;

#define DEFINE_VARIANT(NAME, TARGET, LANES, WIDEN, COUNT, AT_ONCE)                                                                           \
    TARGET static void NAME##_stretch(const void *x, int dtype, int64_t start, int64_t stop, Moments *into, Buckets *buckets) {              \
        stretch(x, dtype, start, stop, into, buckets, LANES, WIDEN, COUNT, AT_ONCE);                                                         \
    }                                                                                                                                        \
    TARGET static void NAME##_planes(const void *x, int dtype, const int64_t sizes[3], Moments *moments, Buckets *buckets) {                 \
        planes(x, dtype, sizes, moments, buckets, LANES, WIDEN, COUNT);                                                                      \
    }                                                                                                                                        \
    TARGET static void NAME##_pixels(const void *x, int dtype, const int64_t sizes[3], Moments *moments, Buckets *buckets) {                 \
        pixels(x, dtype, sizes, moments, buckets, WIDEN);                                                                                    \
    }                                                                                                                                        \
    TARGET static void NAME##_gap(const void *x, const void *y, int dtype, int64_t start, int64_t stop, const Allowed *a, Gap *gap) {        \
        gap_between(x, y, dtype, start, stop, a, gap, WIDEN);                                                                                \
    }                                                                                                                                        \
    TARGET static uint64_t NAME##_hash(const char *x, int64_t bytes, char *to) { return hash_memory(x, bytes, to); }                         \
    static const Variant NAME = {NAME##_stretch, NAME##_planes, NAME##_pixels, NAME##_gap, NAME##_hash};

DEFINE_VARIANT(basic, , 16, widen_half, count_by_keys, 0)
#if defined(__x86_64__)
__attribute__((target("avx2,fma,f16c"))) static void widen_half_f16c(const uint16_t *h, float *to, int n) {
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(h + i))));
    for (; i < n; i++)
        to[i] = from_half(h[i]);
}
DEFINE_VARIANT(avx2, __attribute__((target("avx2,fma,f16c"))), 16, widen_half_f16c, count_by_keys, 0)
DEFINE_VARIANT(avx512, __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"))), 32, widen_half_f16c, count_by_keys, 0)
DEFINE_VARIANT(avx512_vbmi, WIDE, 32, widen_half_f16c, count_by_bytes, take_at_once)
#endif

static const Variant *variant(void) {
#if defined(ONLY) /* for tests of what other processors run */
    return &ONLY;
#elif defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bitalg") && __builtin_cpu_supports("gfni")
                   ? &avx512_vbmi
                   : &avx512;
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
    if (share->histogram)
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

/* The statistics of `count` values at `x` into a row, and their histogram where asked for. */
EXPORT int cnnprobe_measure(const void *x, int dtype, int64_t count, double *row, int64_t *histogram, int threads) {
    if (!x && count)
        return UNSUPPORTED;
    Share shares[MAX_THREADS];
    int k = shares_of(count * SIZES[dtype], threads);
    int64_t *counts = histogram && k > 1 ? calloc((size_t)k * SLOTS, sizeof *counts) : histogram;
    if (histogram && !counts)
        return OUT_OF_MEMORY;
    if (histogram)
        memset(histogram, 0, SLOTS * sizeof *histogram);
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
        for (int i = 0; k > 1 && i < k * SLOTS; i++)
            histogram[i % SLOTS] += counts[i];
        if (k > 1)
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
    row[AT_SLOT] = (double)cell->slot;
    row[AT_WRITTEN] = 0; /* until it is written */
    return row;
}

/* NOT_FINITE is no failure: the row is there, and worth a look at once. */
static int finished(double *row, int status) {
    row[AT_WRITTEN] = status == DONE;
    return status == DONE && (row[AT_NAN] > 0 || row[AT_INF] > 0) ? NOT_FINITE : status;
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
    memcpy(row, cell->sheet->rows + source * WIDTH, AT_SLOT * sizeof *row);
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

/* A copy of every job's values, one after the other, each at a multiple of 64 bytes; and the hash of each, where asked for: in the same read. */
EXPORT void cnnprobe_keep(const Job *jobs, int64_t n, char *to, uint64_t *hashes) {
    for (int64_t i = 0; i < n; to += bytes_of(&jobs[i++])) {
        int64_t bytes = jobs[i].count * SIZES[jobs[i].cell->dtype];
        if (hashes)
            hashes[i] = variant()->hash(jobs[i].x, bytes, to);
        else
            memcpy(to, jobs[i].x, (size_t)bytes);
    }
}

typedef struct {
    const char *x;
    int64_t bytes;
    uint64_t hash;
} Memory;

/* The hash of each. */
EXPORT void cnnprobe_hash_each(Memory *memory, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        memory[i].hash = variant()->hash(memory[i].x, memory[i].bytes, 0);
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
