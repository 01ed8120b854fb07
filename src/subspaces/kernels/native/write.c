/* segment <- base + P w, tile by tile: a tile is made in the cache and written where its rows belong. */
#include <stdatomic.h>
#include <stdlib.h>

#include "segments.h"

typedef struct {
    const plan *plan;
    const kernels *k;
    const run_list *runs;
    const float *w;
    int mode;
    int64_t items_per_job;
    atomic_int_fast64_t next, done;
} write_work;

/* A tile that lies in one segment, written without a stop in between; 0 if that cannot be. */
static int write_whole(const write_work *work, void *scratch, const item *it)
{
    const subspaces_segments *s = work->runs->segments;
    const int64_t i = it->begin, first = it->tile_first;
    if (it->end - i != 1 || it->start != first || it->stop != tile_start(work->plan, it->tile + 1) ||
        work->mode == SUBSPACES_SET || (work->mode == SUBSPACES_FROM_ORIGIN && s->origin_dtype[i] != s->dtype[i]))
        return 0;
    void *dst = row_of(s, i, first);
    const void *base = dst;
    if (work->mode == SUBSPACES_FROM_ORIGIN)
        base = (const char *)s->origin[i] + (first - s->start[i]) * dtype_size(s->dtype[i]);
    return work->k->write_tile(work->plan, scratch, work->w, it->tile, dst, base, s->dtype[i]);
}

static void scatter(const write_work *work, const item *it, const float *y)
{
    const subspaces_segments *s = work->runs->segments;
    for (int64_t i = it->begin; i < it->end; i++) {
        const int64_t from = larger(s->start[i], it->start), to = smaller(s->start[i] + s->length[i], it->stop);
        if (to <= from)
            continue;
        char *dst = row_of(s, i, from);
        const void *base = dst;
        int base_dtype = s->dtype[i];
        if (work->mode == SUBSPACES_SET)
            base_dtype = -1;
        if (work->mode == SUBSPACES_FROM_ORIGIN) {
            base_dtype = s->origin_dtype[i];
            base = (const char *)s->origin[i] + (from - s->start[i]) * dtype_size(base_dtype);
        }
        work->k->emit(dst, s->dtype[i], base, base_dtype, y + (from - it->tile_first), to - from);
    }
}

static void *write_worker(void *context)
{
    write_work *work = context;
    const plan *plan = work->plan;
    char *memory = malloc(plan->scratch_bytes + sizeof(float) * (size_t)plan->tile_rows);
    if (!memory)
        return NULL;
    float *y = (float *)(memory + plan->scratch_bytes);
    memset(memory, 0xff, 16); /* "nothing is held yet" */
    for (;;) {
        const int64_t begin = atomic_fetch_add(&work->next, 1) * work->items_per_job;
        if (begin >= work->runs->items)
            break;
        const int64_t end = smaller(begin + work->items_per_job, work->runs->items);
        for (int64_t i = begin; i < end; i++) {
            const item it = get_item(work->runs, plan, i);
            if (write_whole(work, memory, &it))
                continue;
            work->k->lift[plan->p.kind](plan, memory, work->w, it.tile, y);
            scatter(work, &it, y);
        }
        atomic_fetch_add(&work->done, end - begin);
    }
    free(memory);
    return NULL;
}

/* hadamard: w times its scale, twice, after SLACK zeros; the plan is changed to it */
static float *doubled(plan *plan, const float *w)
{
    const int64_t d = plan->p.d;
    float *memory = calloc((size_t)(2 * d + 2 * SLACK), sizeof(float)), *copy = memory + SLACK;
    if (!memory)
        return NULL;
    for (int64_t j = 0; j < d; j++)
        copy[j] = copy[j + d] = w[j] * column_scale(plan, j);
    double_columns(plan);
    return memory;
}

/* dense: w times its scale, padded to whole sign words, in the form that the kernel reads */
static float *formed(const plan *plan, const kernels *k, const float *w)
{
    float *padded = calloc((size_t)plan->words, 32 * sizeof(float));
    float *form = malloc((size_t)plan->words * (size_t)k->dense_form * sizeof(float));
    if (padded && form) {
        for (int64_t j = 0; j < plan->p.d; j++)
            padded[j] = w[j] * plan->scale[0];
        k->dense_prepare(padded, plan->words, form);
    }
    if (!padded) {
        free(form);
        form = NULL;
    }
    free(padded);
    return form;
}

static int origins_valid(const subspaces_segments *s)
{
    if (s->n > 0 && (!s->origin || !s->origin_dtype))
        return 0;
    for (int64_t i = 0; i < s->n; i++)
        if (s->length[i] > 0 && (!s->origin[i] || s->origin_dtype[i] < 0 || s->origin_dtype[i] >= SUBSPACES_DTYPES))
            return 0;
    return 1;
}

int subspaces_write(const subspaces_projection *p, const subspaces_segments *segments, const float *w, int mode)
{
    plan plan;
    run_list runs;
    int status = make_plan(&plan, p);
    if (status != SUBSPACES_OK)
        return status;
    if (mode < SUBSPACES_ADD || mode > SUBSPACES_FROM_ORIGIN ||
        (mode == SUBSPACES_FROM_ORIGIN && !origins_valid(segments)))
        return SUBSPACES_BAD_ARGUMENT;
    status = make_runs(&runs, segments, &plan);
    if (status != SUBSPACES_OK)
        return status;
    const kernels *k = current_kernels();
    const int dense = p->kind == SUBSPACES_DENSE, prepare = dense || doubling_pays(&plan, runs.rows);
    float *copy = dense ? formed(&plan, k, w) : prepare ? doubled(&plan, w) : NULL;
    if (copy || !prepare) {
        write_work work = {.plan = &plan, .k = k, .runs = &runs, .w = !copy ? w : dense ? copy : copy + SLACK, .mode = mode};
        work.items_per_job = larger(1, 65536 / plan.tile_rows);
        run_threads(worth_threads(p->threads, (double)runs.rows * plan.row_cost), write_worker, &work);
        if (work.done < runs.items)
            status = SUBSPACES_NO_MEMORY;
    } else {
        status = SUBSPACES_NO_MEMORY;
    }
    free(copy);
    free_runs(&runs);
    return status;
}
