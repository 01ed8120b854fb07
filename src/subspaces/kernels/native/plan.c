/* How a projection is cut into tiles, with everything that does not depend on the data. */
#include <math.h>

#include "internal.h"

static int power_of_two(int64_t m) { return m > 0 && !(m & (m - 1)); }

/* Columns are scaled by 1/sqrt(n_c B); n_c is one larger for the D mod d columns from the last turn on. */
static int plan_rotation(plan *plan, const kernels *k)
{
    const int64_t d = plan->p.d, D = plan->p.D, block = plan->p.block, last = D / d, more = D % d;
    if (!power_of_two(block) || block > MAX_BLOCK || d > INT32_MAX)
        return SUBSPACES_BAD_ARGUMENT;
    uint32_t words[4];
    k->philox(plan->p.seed, ROTATION, (uint64_t)last / 4, 1, words);
    const int64_t turn = (int64_t)((uint64_t)words[last % 4] * (uint64_t)d >> 32);
    const float often = (float)(1 / sqrt((double)(last + 1) * (double)block));
    const float seldom = (float)(1 / sqrt((double)last * (double)block));
    const int wraps = turn + more > d; /* then the middle interval is the one with fewer rows */
    plan->low = wraps ? turn + more - d : turn;
    plan->high = wraps ? turn : turn + more;
    plan->scale[0] = wraps ? often : seldom;
    plan->scale[1] = wraps ? seldom : often;
    plan->tile_rows = larger(ROW_TILE, block);
    plan->wrap = d;
    plan->tail = D - D % block;
    plan->scratch_bytes = ROTATION_SCRATCH;
    plan->row_cost = 1;
    return SUBSPACES_OK;
}

int doubling_pays(const plan *plan, int64_t rows)
{
    return plan->p.kind == SUBSPACES_HADAMARD && plan->p.d <= MAX_DOUBLE && rows >= SPAN * plan->p.d;
}

void double_columns(plan *plan)
{
    plan->doubled = 1;
    plan->width = plan->wrap = plan->low = plan->high = 2 * plan->p.d;
    plan->scale[0] = plan->scale[1] = 1;
}

static void plan_dense(plan *plan)
{
    plan->words = (plan->p.d + 31) / 32;
    plan->width = 32 * ((plan->words + DENSE_PAD - 1) / DENSE_PAD * DENSE_PAD);
    plan->tile_rows = 256;
    plan->scale[0] = (float)(1 / sqrt((double)plan->p.D));
    plan->scratch_bytes = DENSE_SCRATCH;
    plan->row_cost = 1 + (double)plan->words;
}

static void plan_sparse(plan *plan)
{
    const double root = sqrt((double)plan->p.D);
    plan->strata = larger(1, (int64_t)floor(root));
    /* nearest integer, in integers: k + 1 if D > (k + 1/2)^2, that is D > k^2 + k */
    while (plan->strata * plan->strata > plan->p.D && plan->strata > 1)
        plan->strata--;
    while ((plan->strata + 1) * (plan->strata + 1) <= plan->p.D)
        plan->strata++;
    if (plan->p.D > plan->strata * plan->strata + plan->strata)
        plan->strata++;
    plan->tiles = plan->strata;
    plan->tile_rows = (plan->p.D + plan->strata - 1) / plan->strata;
    plan->scale[0] = (float)(1 / sqrt((double)plan->strata));
    plan->scratch_bytes = SPARSE_SCRATCH;
    plan->row_cost = 1 + 4 * (double)plan->p.d / root;
}

static int plan_fastfood(plan *plan)
{
    const int64_t m = plan->p.block;
    if (!power_of_two(m) || m < plan->p.d || m > INT32_MAX || !plan->p.permutation || !(plan->p.scale > 0))
        return SUBSPACES_BAD_ARGUMENT;
    plan->tile_rows = larger(ROW_TILE, m);
    plan->scale[0] = (float)(1 / plan->p.scale);
    plan->scratch_bytes = (size_t)plan->tile_rows * 2 * sizeof(float) +
                          2 * sizeof(uint32_t) * (size_t)(plan->tile_rows / 32 + 16);
    plan->row_cost = 4;
    return SUBSPACES_OK;
}

int make_plan(plan *out, const subspaces_projection *p)
{
    int status = SUBSPACES_OK;
    *out = (plan){.p = *p, .width = p->d};
    if (p->d < 1 || p->D < p->d || p->D > ((int64_t)1 << 52))
        return SUBSPACES_BAD_ARGUMENT;
    switch (p->kind) {
    case SUBSPACES_HADAMARD: status = plan_rotation(out, current_kernels()); break;
    case SUBSPACES_DENSE: plan_dense(out); break;
    case SUBSPACES_SPARSE: plan_sparse(out); break;
    case SUBSPACES_FASTFOOD: status = plan_fastfood(out); break;
    default: status = SUBSPACES_BAD_ARGUMENT;
    }
    if (status == SUBSPACES_OK && p->kind != SUBSPACES_SPARSE)
        out->tiles = (p->D - 1) / out->tile_rows + 1;
    return status;
}
