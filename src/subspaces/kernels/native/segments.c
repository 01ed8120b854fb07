/* The runs of a list of segments, and which segments have the rows of a tile. */
#include <stdlib.h>

#include "segments.h"

static int valid(const subspaces_segments *s, const plan *plan)
{
    for (int64_t i = 0; i < s->n; i++)
        if (s->length[i] < 0 || s->start[i] < 0 || s->start[i] > plan->p.D - s->length[i] || s->dtype[i] < 0 ||
            s->dtype[i] >= SUBSPACES_DTYPES || (s->length[i] > 0 && !s->data[i]))
            return 0;
    return 1;
}

static void close_run(run_list *list, run *run, const plan *plan)
{
    if (run->stop == run->start)
        return;
    run->first_tile = tile_of(plan, run->start);
    run->items = tile_of(plan, run->stop - 1) - run->first_tile + 1;
    run->first_item = list->items;
    list->items += run->items;
    list->rows += run->stop - run->start;
    list->runs[list->n++] = *run;
}

int make_runs(run_list *list, const subspaces_segments *segments, const plan *plan)
{
    *list = (run_list){.segments = segments};
    if (segments->n < 0 || !valid(segments, plan))
        return SUBSPACES_BAD_ARGUMENT;
    list->runs = malloc(sizeof(run) * (size_t)(segments->n + 1));
    if (!list->runs)
        return SUBSPACES_NO_MEMORY;
    run current = {0};
    for (int64_t i = 0; i < segments->n; i++) {
        if (segments->start[i] != current.stop || i == 0) {
            close_run(list, &current, plan);
            current = (run){.begin = i, .start = segments->start[i], .stop = segments->start[i]};
        }
        current.stop += segments->length[i];
        current.end = i + 1;
    }
    close_run(list, &current, plan);
    return SUBSPACES_OK;
}

void free_runs(run_list *list) { free(list->runs); }

/* The first segment of [begin, end) that ends after a row; their starts ascend. */
static int64_t segment_with(const subspaces_segments *s, int64_t begin, int64_t end, int64_t row)
{
    while (begin < end) {
        const int64_t middle = begin + (end - begin) / 2;
        if (s->start[middle] + s->length[middle] <= row)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin;
}

item get_item(const run_list *list, const plan *plan, int64_t index)
{
    int64_t low = 0, high = list->n - 1;
    while (low < high) { /* the last run that begins at or before the item */
        const int64_t middle = high - (high - low) / 2;
        if (list->runs[middle].first_item <= index)
            low = middle;
        else
            high = middle - 1;
    }
    const run *run = &list->runs[low];
    item it = {.tile = run->first_tile + index - run->first_item};
    it.tile_first = tile_start(plan, it.tile);
    it.start = larger(it.tile_first, run->start);
    it.stop = smaller(tile_start(plan, it.tile + 1), run->stop);
    it.begin = segment_with(list->segments, run->begin, run->end, it.start);
    it.end = it.begin;
    while (it.end < run->end && list->segments->start[it.end] < it.stop)
        it.end++;
    return it;
}
