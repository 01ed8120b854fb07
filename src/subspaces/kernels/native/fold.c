/* out <- out + sum over segments of P[rows]^T segment.
 *
 * The sum is the same for any number of threads: the tiles are cut into jobs that depend on the call alone,
 * each job is summed by one thread, and jobs are added to the total in their order. Within a job float32 parts
 * of a few tiles are added up in float64, so that the error does not grow with D.
 * Few rows (less than SPAN d) are added to `out` at once, without anything that costs O(d).
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "segments.h"

#define JOB_ROWS 131072 /* at least */

typedef struct {
    const plan *plan;
    const kernels *k;
    const run_list *runs;
    double *total;
    int64_t items_per_span, items_per_job, jobs;
    atomic_int_fast64_t next;
    int64_t turn; /* jobs in the total; under the lock */
    pthread_mutex_t lock;
    pthread_cond_t moved;
} fold_work;

/* The rows of the item as float32: in place if the tile is one float32 segment, else gathered in `rows`. */
static const float *gather(const fold_work *work, const item *it, float *rows)
{
    const subspaces_segments *s = work->runs->segments;
    const int64_t first = it->tile_first, n = tile_start(work->plan, it->tile + 1) - first;
    if (it->end - it->begin == 1 && it->stop - it->start == n && s->dtype[it->begin] == SUBSPACES_F32)
        return (const float *)row_of(s, it->begin, first);
    memset(rows, 0, sizeof(float) * (size_t)(it->start - first));
    memset(rows + (it->stop - first), 0, sizeof(float) * (size_t)(n - (it->stop - first)));
    for (int64_t i = it->begin; i < it->end; i++) {
        const int64_t from = larger(s->start[i], it->start), to = smaller(s->start[i] + s->length[i], it->stop);
        if (to > from)
            work->k->load(rows + (from - first), row_of(s, i, from), s->dtype[i], to - from);
    }
    return rows;
}

/* A tile that lies in one segment, read without a copy; 0 if that cannot be. */
static int fold_whole(const fold_work *work, void *scratch, const item *it, float *acc)
{
    const subspaces_segments *s = work->runs->segments;
    const int64_t i = it->begin, first = it->tile_first;
    if (it->end - i != 1 || it->start != first || it->stop != tile_start(work->plan, it->tile + 1))
        return 0;
    return work->k->fold_tile(work->plan, scratch, row_of(s, i, first), s->dtype[i], it->tile, acc);
}

static void fold_items(const fold_work *work, void *scratch, float *rows, int64_t begin, int64_t end, float *acc)
{
    for (int64_t i = begin; i < end; i++) {
        const item it = get_item(work->runs, work->plan, i);
        if (!fold_whole(work, scratch, &it, acc))
            work->k->adjoint[work->plan->p.kind](work->plan, scratch, gather(work, &it, rows), it.tile, acc);
    }
}

/* One job: `sum` gets all but the last span, which stays in acc when a job is one span. */
static void fold_job(const fold_work *work, int64_t job, void *scratch, float *rows, float *acc, double *sum)
{
    const int64_t width = work->plan->width, begin = job * work->items_per_job;
    const int64_t end = smaller(begin + work->items_per_job, work->runs->items);
    for (int64_t i = begin; i < end; i += work->items_per_span) {
        fold_items(work, scratch, rows, i, smaller(i + work->items_per_span, end), acc);
        if (sum)
            work->k->flush(sum, acc, width);
    }
}

static void add_in_order(fold_work *work, int64_t job, float *acc, double *sum)
{
    const int64_t width = work->plan->width;
    pthread_mutex_lock(&work->lock);
    while (work->turn != job)
        pthread_cond_wait(&work->moved, &work->lock);
    if (sum)
        work->k->add64(work->total, sum, width);
    else
        work->k->flush(work->total, acc, width);
    work->turn++;
    pthread_cond_broadcast(&work->moved);
    pthread_mutex_unlock(&work->lock);
    if (sum)
        memset(sum, 0, sizeof(double) * (size_t)width);
}

static void *fold_worker(void *context)
{
    fold_work *work = context;
    const plan *plan = work->plan;
    const int several = work->items_per_job > work->items_per_span;
    char *memory = malloc(plan->scratch_bytes + sizeof(float) * (size_t)plan->tile_rows);
    float *acc = calloc((size_t)plan->width, sizeof(float));
    double *sum = several ? calloc((size_t)plan->width, sizeof(double)) : NULL;
    if (memory && acc && (sum || !several)) {
        float *rows = (float *)(memory + plan->scratch_bytes);
        memset(memory, 0xff, 16); /* "nothing is held yet" */
        for (;;) {
            const int64_t job = atomic_fetch_add(&work->next, 1);
            if (job >= work->jobs)
                break;
            fold_job(work, job, memory, rows, acc, sum);
            add_in_order(work, job, acc, sum);
        }
    }
    free(sum);
    free(acc);
    free(memory);
    return NULL;
}

/* Few rows: straight into out. */
static int fold_at_once(fold_work *work, float *out)
{
    const plan *plan = work->plan;
    char *memory = malloc(plan->scratch_bytes + sizeof(float) * (size_t)plan->tile_rows);
    if (!memory)
        return SUBSPACES_NO_MEMORY;
    memset(memory, 0xff, 16);
    fold_items(work, memory, (float *)(memory + plan->scratch_bytes), 0, work->runs->items, out);
    free(memory);
    return SUBSPACES_OK;
}

/* Where the accumulator has a column of `dense`. */
static int64_t dense_place(int64_t column, int64_t lanes)
{
    const int64_t word = column / 32, q = word % lanes;
    return lanes == 1 ? column : ((word - q) * 32) + column % 32 * lanes + q;
}

/* out += total, with the two copies of a doubled column put together again */
static void settle(const plan *exact, const fold_work *work, float *out)
{
    const int64_t d = exact->p.d;
    if (exact->p.kind == SUBSPACES_DENSE)
        for (int64_t j = 0; j < d; j++)
            out[j] = (float)((double)out[j] + work->total[dense_place(j, work->k->dense_lanes)]);
    else if (work->plan->wrap == exact->wrap) /* not doubled */
        for (int64_t j = 0; j < d; j++)
            out[j] = (float)((double)out[j] + work->total[j]);
    else
        for (int64_t j = 0; j < d; j++)
            out[j] = (float)((double)out[j] + (work->total[j] + work->total[j + d]) * (double)column_scale(exact, j));
}

static int fold_in_jobs(fold_work *work, const plan *exact, float *out)
{
    const plan *plan = work->plan;
    work->items_per_span = (SPAN * plan->width - 1) / plan->tile_rows + 1;
    work->items_per_job = larger(work->items_per_span, JOB_ROWS / plan->tile_rows);
    work->items_per_job -= work->items_per_job % work->items_per_span;
    work->jobs = (work->runs->items + work->items_per_job - 1) / work->items_per_job;
    work->total = calloc((size_t)plan->width, sizeof(double));
    if (!work->total)
        return SUBSPACES_NO_MEMORY;
    pthread_mutex_init(&work->lock, NULL);
    pthread_cond_init(&work->moved, NULL);
    const int threads = worth_threads(plan->p.threads, (double)work->runs->rows * plan->row_cost);
    run_threads((int)smaller(threads, work->jobs), fold_worker, work);
    const int finished = work->turn == work->jobs;
    if (finished)
        settle(exact, work, out);
    pthread_cond_destroy(&work->moved);
    pthread_mutex_destroy(&work->lock);
    free(work->total);
    return finished ? SUBSPACES_OK : SUBSPACES_NO_MEMORY;
}

int subspaces_fold(const subspaces_projection *p, const subspaces_segments *segments, float *out)
{
    plan exact;
    run_list runs;
    int status = make_plan(&exact, p);
    if (status == SUBSPACES_OK)
        status = make_runs(&runs, segments, &exact);
    if (status != SUBSPACES_OK)
        return status;
    plan plan = exact;
    fold_work work = {.plan = &plan, .k = current_kernels(), .runs = &runs};
    /* dense and sparse touch every column in every tile: nothing is saved for them, and dense pads its columns */
    if (p->kind == SUBSPACES_HADAMARD && runs.rows < SPAN * p->d) {
        status = fold_at_once(&work, out);
    } else {
        if (doubling_pays(&plan, runs.rows))
            double_columns(&plan);
        status = fold_in_jobs(&work, &exact, out);
    }
    free_runs(&runs);
    return status;
}
