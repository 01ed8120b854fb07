/* `fastfood` H G Pi H B (Le, Sarlos, Smola, ICML 2013, equation 6), specification section 6. A tile holds
 * whole blocks of m rows: one long block or several short ones. */

/* scratch: two rows of floats, then the signs B and G of the tile */
typedef struct {
    float *one, *two;
    uint32_t *signs, *signs_g;
} fastfood_rows;

INLINE fastfood_rows fastfood_memory(const plan *plan, void *memory)
{
    const int64_t words = plan->tile_rows / 32 + 1 + WORDS_SLACK;
    fastfood_rows rows = {.one = memory};
    rows.two = rows.one + plan->tile_rows;
    rows.signs = (uint32_t *)(rows.two + plan->tile_rows);
    rows.signs_g = rows.signs + words;
    return rows;
}

/* y[i] = G[i] x[pi[i]] (lift) or y[pi[i]] = G[i] x[i] (adjoint) in every block, G divided by s. Without a stored G
 * its signs are left to the transform. */
INLINE void permute(const plan *plan, int64_t first, int64_t blocks, const int lift, const float *x, float *y)
{
    const int64_t m = plan->p.block;
    for (int64_t k = 0; k < blocks * m; k += m) {
        const int32_t *at = plan->p.permutation + first + k;
        const float *gain = plan->p.gain ? plan->p.gain + first + k : NULL;
        if (lift)
            take(y + k, x + k, at, gain, plan->scale[0], m);
        else
            put(y + k, x + k, at, gain, plan->scale[0], m);
    }
}

INLINE const uint32_t *signs_of_gain(const plan *plan, uint64_t first, int64_t n, uint32_t *buffer)
{
    return plan->p.gain ? NULL : signs_at(plan->p.seed, SIGNS_G, first, n, buffer);
}

/* whole blocks of the tile, of which the last may reach beyond row D */
INLINE int64_t blocks_of(const plan *plan, int64_t tile)
{
    const int64_t n = tile_start(plan, tile + 1) - tile * plan->tile_rows;
    return (n + plan->p.block - 1) / plan->p.block;
}

static void fastfood_lift(const plan *plan, void *memory, const float *w, int64_t tile, float *y)
{
    const fastfood_rows scratch = fastfood_memory(plan, memory);
    const int64_t m = plan->p.block, d = plan->p.d, blocks = blocks_of(plan, tile), first = tile * plan->tile_rows;
    for (int64_t k = 0; k < blocks * m; k += m) {
        memcpy(scratch.one + k, w, sizeof(float) * (size_t)d);
        memset(scratch.one + k + d, 0, sizeof(float) * (size_t)(m - d));
    }
    const uint32_t *signs = signs_at(plan->p.seed, SIGNS, (uint64_t)first, blocks * m, scratch.signs);
    hadamard(scratch.one, scratch.one, m, blocks, signs, NULL);
    permute(plan, first, blocks, 1, scratch.one, y);
    hadamard(y, y, m, blocks, signs_of_gain(plan, (uint64_t)first, blocks * m, scratch.signs_g), NULL);
}

static void fastfood_adjoint(const plan *plan, void *memory, const float *g, int64_t tile, float *acc)
{
    const fastfood_rows scratch = fastfood_memory(plan, memory);
    const int64_t m = plan->p.block, blocks = blocks_of(plan, tile), first = tile * plan->tile_rows;
    const int64_t n = tile_start(plan, tile + 1) - first;
    memcpy(scratch.one, g, sizeof(float) * (size_t)n);
    memset(scratch.one + n, 0, sizeof(float) * (size_t)(blocks * m - n));
    hadamard(scratch.one, scratch.one, m, blocks, NULL,
             signs_of_gain(plan, (uint64_t)first, blocks * m, scratch.signs_g));
    permute(plan, first, blocks, 0, scratch.one, scratch.two);
    const uint32_t *signs = signs_at(plan->p.seed, SIGNS, (uint64_t)first, blocks * m, scratch.signs);
    hadamard(scratch.two, scratch.two, m, blocks, NULL, signs);
    for (int64_t k = 0; k < blocks * m; k += m)
        scaled_add(acc, scratch.two + k, plan->p.d, 1);
}
