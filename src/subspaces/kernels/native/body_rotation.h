/* `hadamard` and `onehot`: rows read w at consecutive columns from a hashed turn, specification section 2. */

typedef struct {
    uint64_t batch; /* which 64 turns are held; all ones at first */
    uint64_t unused;
    uint32_t turns[64];
    uint32_t signs[MAX_BLOCK / 32 + WORDS_SLACK];
    float rows[MAX_BLOCK];
} rotation_scratch;

INLINE int64_t turn_of(const plan *plan, rotation_scratch *scratch, int64_t stretch)
{
    const uint64_t batch = (uint64_t)stretch / 64;
    if (batch != scratch->batch) {
        philox(plan->p.seed, ROTATION, batch * 16, 16, scratch->turns);
        scratch->batch = batch;
    }
    return (int64_t)((uint64_t)scratch->turns[stretch % 64] * (uint64_t)plan->p.d >> 32);
}

INLINE void scaled_copy(float *z, const float *w, int64_t n, float factor)
{
    const vf by = splat(factor);
    int64_t i = 0;
    for (; i + W <= n; i += W)
        store(z + i, load(w + i) * by);
    if (i < n)
        store_part(z + i, load_part(w + i, n - i) * by, n - i);
}

INLINE void scaled_add(float *acc, const float *y, int64_t n, float factor)
{
    const vf by = splat(factor);
    int64_t i = 0;
    for (; i + W <= n; i += W)
        store(acc + i, load(acc + i) + load(y + i) * by);
    if (i < n)
        store_part(acc + i, load_part(acc + i, n - i) + load_part(y + i, n - i) * by, n - i);
}

/* Rows first..first+n: lift (z = scale w[column], to = 1) or adjoint (column += scale z, to = 0).
 * A piece ends where the stretch does, where the column wraps and where the scale of the columns changes. */
INLINE void along_columns(const plan *plan, rotation_scratch *scratch, int64_t first, int64_t n, const int lift,
                          const float *from, float *to)
{
    const int64_t d = plan->p.d, low = plan->low, high = plan->high;
    int64_t stretch = first / d, offset = first - stretch * d;
    while (n > 0) {
        int64_t left = smaller(d - offset, n), column = offset + turn_of(plan, scratch, stretch);
        if (column >= d)
            column -= d;
        n -= left;
        while (left > 0) {
            const int inside = column >= low && column < high;
            const int64_t limit = column < low ? low : inside ? high : d;
            const int64_t length = smaller(limit - column, left);
            if (lift) {
                scaled_copy(to, from + column, length, plan->scale[inside]);
                to += length;
            } else {
                scaled_add(to + column, from, length, plan->scale[inside]);
                from += length;
            }
            column += length;
            if (column == d)
                column = 0;
            left -= length;
        }
        offset = 0;
        stretch++;
    }
}

/* The rows after the whole blocks: blocks of descending powers of two, starting at row `at` of the tile. */
INLINE void tail_blocks(const plan *plan, const float *src, float *dst, int64_t at, const uint32_t *signs,
                        const int when)
{
    const int64_t rest = plan->p.D - plan->tail;
    for (int64_t m = plan->p.block / 2; m > 0; m /= 2) {
        if (!(rest & m))
            continue;
        const uint32_t aligned = signs[at / 32] >> (at % 32); /* m < 32: a block lies within one word */
        const uint32_t *bits = m < 32 ? &aligned : signs + at / 32;
        hadamard(src + at, dst + at, m, 1, when == BEFORE ? bits : NULL, when == AFTER ? bits : NULL);
        multiply(dst + at, m, (float)__builtin_sqrt((double)plan->p.block / (double)m)); /* scale has 1/sqrt(B) */
        at += m;
    }
}

INLINE void transform_tile(const plan *plan, const float *src, float *dst, int64_t first, int64_t n,
                           const uint32_t *signs, const int when)
{
    const int64_t whole = larger(0, smaller(n, plan->tail - first));
    hadamard(src, dst, plan->p.block, whole / plan->p.block, when == BEFORE ? signs : NULL,
             when == AFTER ? signs : NULL);
    if (whole < n)
        tail_blocks(plan, src, dst, whole, signs, when);
}

static void rotation_lift(const plan *plan, void *memory, const float *w, int64_t tile, float *y, const upcoming *next)
{
    rotation_scratch *scratch = memory;
    const int64_t first = tile_start(plan, tile), n = tile_start(plan, tile + 1) - first;
    const uint32_t *signs = signs_at(plan->p.seed, SIGNS, (uint64_t)first, n, scratch->signs);
    (void)next;
    along_columns(plan, scratch, first, n, 1, w, y);
    transform_tile(plan, y, y, first, n, signs, BEFORE);
}

static void rotation_adjoint(const plan *plan, void *memory, const float *g, int64_t tile, float *acc)
{
    rotation_scratch *scratch = memory;
    const int64_t first = tile_start(plan, tile), n = tile_start(plan, tile + 1) - first;
    const uint32_t *signs = signs_at(plan->p.seed, SIGNS, (uint64_t)first, n, scratch->signs);
    transform_tile(plan, g, scratch->rows, first, n, signs, AFTER);
    along_columns(plan, scratch, first, n, 0, scratch->rows, acc);
}
