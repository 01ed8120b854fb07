/* `sparse`: a stratum of about sqrt(D) rows has one entry of every column, specification section 5.
 * The entries are made when they are needed: a stratum fits a first-level cache, a stored matrix would not. */
#define SPARSE_BATCH 1024 /* columns at a time */

typedef struct {
    uint64_t unused[2];
    uint32_t words[SPARSE_BATCH + WORDS_SLACK];
    uint32_t signs[SPARSE_BATCH / 32 + 1 + WORDS_SLACK];
    int32_t rows[SPARSE_BATCH];
    float values[SPARSE_BATCH + 16];
} sparse_scratch;

/* Rows (within the stratum) of the entries of n columns; the packed signs are returned. */
INLINE const uint32_t *entries(const plan *plan, sparse_scratch *scratch, int64_t tile, int64_t column, int64_t n)
{
    const uint64_t entry = (uint64_t)tile * (uint64_t)plan->p.d + (uint64_t)column;
    const uint64_t size = (uint64_t)(tile_start(plan, tile + 1) - tile_start(plan, tile));
    const uint32_t *words = words_at(plan->p.seed, SLOTS, entry, n, scratch->words);
    for (int64_t i = 0; i < n; i++)
        scratch->rows[i] = (int32_t)((uint64_t)words[i] * size >> 32);
    return signs_at(plan->p.seed, SIGNS, entry, n, scratch->signs);
}

/* values <- +-values */
INLINE void apply_signs(float *values, const uint32_t *signs, int64_t n)
{
    for (int64_t i = 0; i < n; i += W) /* the array is longer by a vector */
        store(values + i, with_signs(load(values + i), aligned_bits(signs, i)));
}

static void sparse_lift(const plan *plan, void *memory, const float *w, int64_t tile, float *y)
{
    sparse_scratch *scratch = memory;
    memset(y, 0, sizeof(float) * (size_t)(tile_start(plan, tile + 1) - tile_start(plan, tile)));
    for (int64_t column = 0; column < plan->p.d; column += SPARSE_BATCH) {
        const int64_t n = smaller(SPARSE_BATCH, plan->p.d - column);
        const uint32_t *signs = entries(plan, scratch, tile, column, n);
        scaled_copy(scratch->values, w + column, n, plan->scale[0]);
        apply_signs(scratch->values, signs, n);
        add_at(y, scratch->values, scratch->rows, n);
    }
}

static void sparse_adjoint(const plan *plan, void *memory, const float *g, int64_t tile, float *acc)
{
    sparse_scratch *scratch = memory;
    for (int64_t column = 0; column < plan->p.d; column += SPARSE_BATCH) {
        const int64_t n = smaller(SPARSE_BATCH, plan->p.d - column);
        const uint32_t *signs = entries(plan, scratch, tile, column, n);
        take(scratch->values, g, scratch->rows, NULL, plan->scale[0], n);
        apply_signs(scratch->values, signs, n);
        scaled_add(acc + column, scratch->values, n, 1);
    }
}
