/* `hadamard` and `onehot`: rows read w at consecutive columns from a hashed turn, specification section 2. */

typedef struct {
    uint64_t batch; /* which 64 turns are held; all ones at first */
    uint64_t unused;
    uint32_t turns[64];
    uint32_t signs[MAX_BLOCK / 32 + WORDS_SLACK];
    float rows[MAX_BLOCK];
} rotation_scratch;

/* Where a row reads w: row = stretch d + offset. */
typedef struct {
    int64_t stretch, offset, column;
} cursor;

INLINE void find_column(const plan *plan, rotation_scratch *scratch, cursor *at)
{
    const uint64_t batch = (uint64_t)at->stretch / 64;
    if (batch != scratch->batch) {
        philox(plan->p.seed, ROTATION, batch * 16, 16, scratch->turns);
        scratch->batch = batch;
    }
    at->column = at->offset + (int64_t)((uint64_t)scratch->turns[at->stretch % 64] * (uint64_t)plan->p.d >> 32);
    if (at->column >= plan->wrap)
        at->column -= plan->wrap;
}

INLINE cursor cursor_at(const plan *plan, rotation_scratch *scratch, int64_t row)
{
    cursor at = {.stretch = row / plan->p.d};
    at.offset = row - at.stretch * plan->p.d;
    find_column(plan, scratch, &at);
    return at;
}

/* The columns from low to high have the other scale than the rest. */
INLINE int is_inside(const plan *plan, const cursor at) { return at.column >= plan->low && at.column < plan->high; }

/* How many of the next n rows read consecutive columns of one scale. */
INLINE int64_t stretch_of(const plan *plan, const cursor at, int64_t n)
{
    const int64_t limit = at.column < plan->low ? plan->low : at.column < plan->high ? plan->high : plan->wrap;
    return smaller(smaller(limit - at.column, plan->p.d - at.offset), n);
}

INLINE void advance(const plan *plan, rotation_scratch *scratch, cursor *at, int64_t n)
{
    at->offset += n;
    at->column += n;
    if (at->offset == plan->p.d) {
        at->offset = 0;
        at->stretch++;
        find_column(plan, scratch, at);
    } else if (at->column == plan->wrap) {
        at->column = 0;
    }
}

/* ---- pieces of consecutive columns */

/* dst[i] <- factor src[i] in TO_ROWS, else as `give` says; signs (or NULL) from bit e on. With `ahead` above 0 memory so
 * many rows further on is asked for: the loop is too long for the processor to look that far by itself. */
INLINE void piece(const void *src, const int dtype, const sink to, const int how, int64_t n, const uint32_t *signs,
                  int64_t e, const int64_t ahead)
{
    const int64_t size = dtype == SUBSPACES_BF16 ? 2 : 4;
    const vf by = splat(to.factor);
    const sink shifted = {.dst = to.dst, .base = to.base, .factor = 1};
    int64_t i = 0;
#if W == 8
    for (; signs && i + 4 * W <= n; i += 4 * W) {
        const vu word = splat_bits(unaligned_word(signs, e + i));
        if (ahead) {
            __builtin_prefetch((const char *)src + (i + ahead) * size, 0);
            __builtin_prefetch((const char *)src + (i + ahead + 2 * W) * size, 0);
        }
        UNROLL for (int k = 0; k < 4; k++)
            give(with_byte(load_as(src, i + k * W, dtype) * by, word, k), i + k * W, how, shifted);
    }
#endif
    for (; i + W <= n; i += W) {
        if (ahead)
            __builtin_prefetch((const char *)src + (i + ahead) * size, 0);
        const vf v = load_as(src, i, dtype) * by;
        give(signs ? with_signs(v, unaligned_bits(signs, e + i)) : v, i, how, shifted);
    }
    if (i == n)
        return;
    vf v = load_part_as(src, i, dtype, n - i) * by;
    if (signs)
        v = with_signs(v, unaligned_bits(signs, e + i));
    if (how == TO_SUM)
        v += load_part((float *)to.dst + i, n - i);
    if (how == TO_F32 || how == TO_BF16)
        v += load_part_as(to.base, i, how == TO_BF16, n - i);
    store_part_as(to.dst, i, how == TO_BF16, v, n - i);
}

INLINE void scaled_copy(float *z, const float *w, int64_t n, float factor)
{
    piece(w, SUBSPACES_F32, (sink){.dst = z, .factor = factor}, TO_ROWS, n, NULL, 0, 0);
}

INLINE void scaled_add(float *acc, const float *y, int64_t n, float factor)
{
    piece(y, SUBSPACES_F32, (sink){.dst = acc, .factor = factor}, TO_SUM, n, NULL, 0, 0);
}

/* z[r] <- scale w[c(r)] for the next n rows */
INLINE void fill(const plan *plan, rotation_scratch *scratch, cursor *at, int64_t n, const float *w, float *z)
{
    while (n > 0) {
        const int64_t length = stretch_of(plan, *at, n);
        scaled_copy(z, w + at->column, length, plan->scale[is_inside(plan, *at)]);
        advance(plan, scratch, at, length);
        z += length;
        n -= length;
    }
}

/* acc[c(r)] += scale y[r] for the next n rows */
INLINE void collect(const plan *plan, rotation_scratch *scratch, cursor *at, int64_t n, const float *y, float *acc)
{
    while (n > 0) {
        const int64_t length = stretch_of(plan, *at, n);
        scaled_add(acc + at->column, y, length, plan->scale[is_inside(plan, *at)]);
        advance(plan, scratch, at, length);
        y += length;
        n -= length;
    }
}

/* ---- any tile */

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

static void rotation_lift(const plan *plan, void *memory, const float *w, int64_t tile, float *y)
{
    rotation_scratch *scratch = memory;
    const int64_t first = tile_start(plan, tile), n = tile_start(plan, tile + 1) - first;
    const uint32_t *signs = signs_at(plan->p.seed, SIGNS, (uint64_t)first, n, scratch->signs);
    cursor at = cursor_at(plan, scratch, first);
    fill(plan, scratch, &at, n, w, y);
    transform_tile(plan, y, y, first, n, signs, BEFORE);
}

static void rotation_adjoint(const plan *plan, void *memory, const float *g, int64_t tile, float *acc)
{
    rotation_scratch *scratch = memory;
    const int64_t first = tile_start(plan, tile), n = tile_start(plan, tile + 1) - first;
    const uint32_t *signs = signs_at(plan->p.seed, SIGNS, (uint64_t)first, n, scratch->signs);
    cursor at = cursor_at(plan, scratch, first);
    transform_tile(plan, g, scratch->rows, first, n, signs, AFTER);
    collect(plan, scratch, &at, n, scratch->rows, acc);
}
