/* Segments that lie one after another form a run; a run is covered by tiles, an item is one tile of one run. */
#ifndef SUBSPACES_SEGMENTS_H
#define SUBSPACES_SEGMENTS_H

#include "internal.h"

typedef struct {
    int64_t begin, end;   /* segments of the run */
    int64_t start, stop;  /* its rows */
    int64_t first_tile;
    int64_t first_item, items;
} run;

typedef struct {
    const subspaces_segments *segments;
    run *runs;
    int64_t n, items, rows;
} run_list;

/* One tile of one run: rows [start, stop) of it are wanted. */
typedef struct {
    int64_t tile, tile_first, start, stop;
    int64_t begin, end; /* segments that have some of these rows */
} item;

int make_runs(run_list *list, const subspaces_segments *segments, const plan *plan);
void free_runs(run_list *list);
item get_item(const run_list *list, const plan *plan, int64_t index);

static inline int64_t dtype_size(int dtype) { return dtype == SUBSPACES_F32 ? 4 : 2; }

/* Address of a row of segment i. */
static inline char *row_of(const subspaces_segments *segments, int64_t i, int64_t row)
{
    return (char *)segments->data[i] + (row - segments->start[i]) * dtype_size(segments->dtype[i]);
}

#endif
