/* What the files of this folder share: the plan of a projection and the table of vectorised functions. */
#ifndef SUBSPACES_INTERNAL_H
#define SUBSPACES_INTERNAL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "subspaces.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the kernels store two 32-bit words as one 64-bit number: little-endian machines only"
#endif
#if defined(__FAST_MATH__)
#error "the specification fixes the order of sums: no -ffast-math, no -Ofast"
#endif

enum { SIGNS = 1, ROTATION = 2, PERMUTATION = 3, SLOTS = 5, SIGNS_G = 7 }; /* streams of the specification */

#define MAX_BLOCK 8192 /* largest Hadamard block: 32 KiB of float32, a first-level cache */
#define ROW_TILE 2048  /* rows that go through the cache together */
#define SPAN 8         /* a cost of O(d) is paid once for this many rows per column */
#define SLACK 16       /* floats that may be read before and after a doubled w */
#define DENSE_ROWS 64  /* of `dense`, whose sign bits are made together */
#define DENSE_PANEL 256 /* sign words of a row that are made together */
#define DENSE_PAD 16   /* sign words of a row are padded to a multiple of this: the lanes of the widest vectors */
#define MAX_DOUBLE 4096 /* largest d that is worth doubling: 2 d floats stay in the cache */

/* bytes of scratch memory per thread, checked in body.h */
#define ROTATION_SCRATCH (MAX_BLOCK * 4 + MAX_BLOCK / 8 + 512)
#define DENSE_SCRATCH 133760
#define SPARSE_SCRATCH 13312

/* A projection cut into tiles of consecutive rows: no row of one tile depends on another tile. */
typedef struct {
    subspaces_projection p;
    int64_t tiles, tile_rows; /* rows of the largest tile */
    int64_t width;            /* length of an accumulator: d, or d padded */
    size_t scratch_bytes;     /* per thread */
    double row_cost;          /* rough cost of a row in units of a streamed row, for the number of threads */
    int64_t tail;             /* hadamard: first row after the whole blocks */
    int doubled;              /* hadamard: every column twice, see double_columns */
    int64_t low, high, wrap;  /* hadamard: columns in [low, high) have scale[1], the others below wrap scale[0] */
    float scale[2];           /* others: scale[0] */
    int64_t words;            /* dense: per row */
    int64_t strata;           /* sparse */
} plan;

typedef struct {
    const char *name;
    void (*philox)(uint64_t seed, uint64_t stream, uint64_t first_block, int64_t blocks, uint32_t *out);
    void (*hadamard)(const float *src, float *dst, int64_t m, int64_t count, const uint32_t *signs_before,
                     const uint32_t *signs_after);
    /* dense: the form of `words` sign words' worth of coordinates that its lift reads, form floats per word */
    void (*dense_prepare)(const float *w, int64_t words, float *to);
    int64_t dense_form, dense_lanes; /* lanes: word q of column c of the accumulator is at c lanes + q; 1: in order */
    void (*pass)(float *x, int radix, int64_t stride, int64_t from, int64_t to);
    void (*multiply)(float *x, int64_t n, float factor);
    void (*load)(float *y, const void *src, int dtype, int64_t n);
    void (*emit)(void *dst, int dtype, const void *base, int base_dtype, const float *y, int64_t n);
    void (*add64)(double *total, const double *more, int64_t n);
    void (*flush)(double *total, float *part, int64_t n); /* total += part; part = 0 */
    void (*adam)(const subspaces_adam *, double step_size, float correction); /* correction of the root of `square` */
    /* rows of a tile <- P w; acc += P^T of the rows of a tile */
    void (*lift[SUBSPACES_KINDS])(const plan *, void *scratch, const float *w, int64_t tile, float *y);
    void (*adjoint[SUBSPACES_KINDS])(const plan *, void *scratch, const float *g, int64_t tile, float *acc);
    /* the same with the caller's memory, where there is a faster way for that; 0 if not */
    int (*write_tile)(const plan *, void *scratch, const float *w, int64_t tile, void *dst, const void *base,
                      int dtype);
    int (*fold_tile)(const plan *, void *scratch, const void *g, int dtype, int64_t tile, float *acc);
} kernels;

extern const kernels kernels_generic;
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define HAVE_X86 1
extern const kernels kernels_avx2, kernels_avx512, kernels_avx512bf16;
#endif

const kernels *current_kernels(void);

/* to[i] = factor gain[i] from[at[i]];  to[at[i]] = factor gain[i] from[i];  to[at[i]] += from[i]. gain may be NULL */
void take(float *to, const float *from, const int32_t *at, const float *gain, float factor, int64_t n);
void put(float *to, const float *from, const int32_t *at, const float *gain, float factor, int64_t n);
void add_at(float *to, const float *from, const int32_t *at, int64_t n);

int make_plan(plan *out, const subspaces_projection *p);

/* hadamard with many rows and small d: columns are doubled, so that a stretch of rows is one piece of them, and their
 * scales are left to the caller: P = (the doubled map) (scale, scale)^T. */
int doubling_pays(const plan *plan, int64_t rows);
void double_columns(plan *plan);
static inline float column_scale(const plan *plan, int64_t column)
{
    return plan->scale[column >= plan->low && column < plan->high];
}

/* Runs worker(context) in up to `threads` threads, this one included, and waits for all. */
void run_threads(int threads, void *(*worker)(void *), void *context);
int worth_threads(int threads, double rows);

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* First row of a tile; the row after the last one for tile = tiles. */
static inline int64_t tile_start(const plan *plan, int64_t tile)
{
    if (plan->p.kind == SUBSPACES_SPARSE)
        return (int64_t)((unsigned __int128)tile * (uint64_t)plan->p.D / (uint64_t)plan->strata);
    return tile == plan->tiles ? plan->p.D : tile * plan->tile_rows;
}

static inline int64_t tile_of(const plan *plan, int64_t row)
{
    if (plan->p.kind != SUBSPACES_SPARSE)
        return row / plan->tile_rows;
    int64_t tile = (int64_t)((unsigned __int128)row * (uint64_t)plan->strata / (uint64_t)plan->p.D);
    while (tile + 1 < plan->tiles && tile_start(plan, tile + 1) <= row)
        tile++;
    return tile;
}

#endif
