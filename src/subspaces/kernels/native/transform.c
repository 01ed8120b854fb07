/* Hadamard transforms of many or of very long vectors, with threads. */
#include <stdatomic.h>

#include "internal.h"

typedef struct {
    const kernels *k;
    float *x;
    int64_t m, count, piece; /* vectors of length m; pieces of work */
    int radix;               /* 0: transform `piece` vectors, else the last pass over `piece` columns */
    int64_t stride;
    float scale;
    atomic_int_fast64_t next;
} transform_work;

static void *transform_worker(void *context)
{
    transform_work *work = context;
    const int64_t all = work->radix ? work->stride : work->count;
    for (;;) {
        const int64_t from = atomic_fetch_add(&work->next, 1) * work->piece;
        if (from >= all)
            return NULL;
        const int64_t to = smaller(from + work->piece, all);
        if (work->radix) {
            work->k->pass(work->x, work->radix, work->stride, from, to);
            for (int i = 0; i < work->radix && work->scale != 1; i++)
                work->k->multiply(work->x + i * work->stride + from, to - from, work->scale);
        } else {
            for (int64_t i = from; i < to; i++) {
                float *x = work->x + i * work->m;
                work->k->hadamard(x, x, work->m, 1, NULL, NULL);
                if (work->scale != 1)
                    work->k->multiply(x, work->m, work->scale);
            }
        }
    }
}

#define LONG ((int64_t)1 << 20) /* from here on one vector is shared by the threads */

int subspaces_hadamard_transform(float *x, int64_t count, int64_t m, float scale, int threads)
{
    if (m < 1 || (m & (m - 1)) || count < 0)
        return SUBSPACES_BAD_ARGUMENT;
    transform_work work = {.k = current_kernels(), .x = x, .m = m, .count = count, .scale = scale};
    threads = worth_threads(threads, (double)count * (double)m);
    if (m < LONG || threads == 1) {
        if (m < 64 && count > 0) { /* too short to be called one by one */
            work.k->hadamard(x, x, m, count, NULL, NULL);
            if (scale != 1)
                work.k->multiply(x, m * count, scale);
            return SUBSPACES_OK;
        }
        work.piece = larger(1, 65536 / m);
        run_threads(threads, transform_worker, &work);
        return SUBSPACES_OK;
    }
    for (int64_t i = 0; i < count; i++) { /* eight parts, then the pass across them */
        transform_work parts = {.k = work.k, .x = x + i * m, .m = m / 8, .count = 8, .piece = 1, .scale = 1};
        run_threads(threads, transform_worker, &parts);
        transform_work across = {.k = work.k, .x = x + i * m, .radix = 8, .stride = m / 8, .piece = 16384};
        across.scale = scale;
        run_threads(threads, transform_worker, &across);
    }
    return SUBSPACES_OK;
}
