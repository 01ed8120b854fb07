/* `hadamard` and `onehot` on a whole tile that lies in one piece of memory: one pass over that memory, with the
 * transform in registers between the read and the write. */

/* Ask for n rows of memory before the transform that ends there: it is long enough to hide the way to memory, and
 * too long for the processor to look past it by itself. */
INLINE void ask_to_read(const void *p, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 64)
        __builtin_prefetch((const char *)p + i, 0);
}

INLINE void ask_to_write(const sink to, const int how, int64_t from, int64_t n)
{
    const int64_t size = how == TO_BF16 ? 2 : 4;
    if (to.base != to.dst)
        ask_to_read((const char *)to.base + from * size, n * size);
    for (int64_t i = 0; i < n * size; i += 64)
        __builtin_prefetch((const char *)to.dst + from * size + i, 0);
}

/* One block of rows from z (or w itself) to memory: base + factor H (signs z). */
INLINE void lift_block(const plan *plan, float *rows, const float *z, const uint32_t *signs, int64_t e, const sink to,
                       const int how)
{
    const int64_t m = plan->p.block;
    if (m == BASE) {
        ask_to_write(to, how, 0, m);
        registers(z, SUBSPACES_F32, to, how, R, W, R, BEFORE, signs, e);
        return;
    }
    const int radix = radix_of(m);
    const int64_t part = m / radix;
    for (int64_t k = 0; k < m; k += part) {
        ask_to_write(to, how, k, part);
        block_before(z + k, rows + k, part, signs, e + k);
    }
    radix_pass_to(rows, SUBSPACES_F32, to, how, radix, part, 0, part);
}

INLINE void write_blocks(const plan *plan, rotation_scratch *scratch, cursor at, int64_t n, const uint32_t *signs,
                         const float *w, sink to, const int how)
{
    const int64_t m = plan->p.block, size = how == TO_BF16 ? 2 : 4;
    for (int64_t e = 0; e < n; e += m) {
        const float *z = scratch->rows;
        to.factor = 1;
        if (stretch_of(plan, at, m) == m) { /* the block reads w in one piece */
            z = w + at.column;
            to.factor = plan->scale[is_inside(plan, at)];
            advance(plan, scratch, &at, m);
        } else {
            fill(plan, scratch, &at, m, w, scratch->rows);
        }
        lift_block(plan, scratch->rows, z, signs, e, to, how);
        to.dst = (char *)to.dst + m * size;
        to.base = (const char *)to.base + m * size;
    }
}

INLINE void write_onehot(const plan *plan, rotation_scratch *scratch, cursor at, int64_t n, const uint32_t *signs,
                         const float *w, sink to, const int how)
{
    const int64_t size = how == TO_BF16 ? 2 : 4;
    for (int64_t e = 0; e < n;) {
        const int64_t length = stretch_of(plan, at, n - e);
        to.factor = plan->scale[is_inside(plan, at)];
        piece(w + at.column, SUBSPACES_F32, to, how, length, signs, e);
        advance(plan, scratch, &at, length);
        e += length;
        to.dst = (char *)to.dst + length * size;
        to.base = (const char *)to.base + length * size;
    }
}

/* dst <- base + rows of P w for a whole tile, dst and base of one dtype; 0 if this tile needs the general way. */
static int write_tile(const plan *plan, void *memory, const float *w, int64_t tile, void *dst, const void *base,
                      int dtype)
{
    rotation_scratch *scratch = memory;
    const int64_t first = tile_start(plan, tile), n = tile_start(plan, tile + 1) - first;
    if (plan->p.kind != SUBSPACES_HADAMARD || (plan->p.block != 1 && plan->p.block < BASE) || first + n > plan->tail)
        return 0;
    const uint32_t *signs = signs_at(plan->p.seed, SIGNS, (uint64_t)first, n, scratch->signs);
    const cursor at = cursor_at(plan, scratch, first);
    const sink to = {.dst = dst, .base = base};
    if (plan->p.block == 1 && dtype == SUBSPACES_F32)
        write_onehot(plan, scratch, at, n, signs, w, to, TO_F32);
    else if (plan->p.block == 1)
        write_onehot(plan, scratch, at, n, signs, w, to, TO_BF16);
    else if (dtype == SUBSPACES_F32)
        write_blocks(plan, scratch, at, n, signs, w, to, TO_F32);
    else
        write_blocks(plan, scratch, at, n, signs, w, to, TO_BF16);
    return 1;
}

INLINE void fold_blocks(const plan *plan, rotation_scratch *scratch, cursor at, int64_t n, const uint32_t *signs,
                        const char *g, const int dtype, float *acc)
{
    const int64_t m = plan->p.block;
    const int64_t size = dtype == SUBSPACES_BF16 ? 2 : 4;
    float *rows = scratch->rows;
    for (int64_t e = 0; e < n; e += m, g += m * size) {
        if (m <= BASE)
            ask_to_read(g + m * size, m * size); /* the next block */
        if (m > BASE) {
            const int radix = radix_of(m);
            const int64_t part = m / radix;
            radix_pass_to(g, dtype, (sink){.dst = rows}, TO_ROWS, radix, part, 0, part);
            for (int64_t k = 0; k < m; k += part) {
                ask_to_read(g + (m + k) * size, part * size);
                block_after(rows + k, rows + k, part, signs, e + k);
            }
        } else if (stretch_of(plan, at, m) == m) {
            const sink to = {.dst = acc + at.column, .factor = plan->scale[is_inside(plan, at)]};
            registers(g, dtype, to, TO_SUM, R, W, R, AFTER, signs, e);
            advance(plan, scratch, &at, m);
            continue;
        } else {
            registers(g, dtype, (sink){.dst = rows}, TO_ROWS, R, W, R, AFTER, signs, e);
        }
        collect(plan, scratch, &at, m, rows, acc);
    }
}

INLINE void fold_onehot(const plan *plan, rotation_scratch *scratch, cursor at, int64_t n, const uint32_t *signs,
                        const char *g, const int dtype, float *acc)
{
    for (int64_t e = 0; e < n;) {
        const int64_t length = stretch_of(plan, at, n - e);
        const sink to = {.dst = acc + at.column, .factor = plan->scale[is_inside(plan, at)]};
        piece(g + e * (dtype == SUBSPACES_BF16 ? 2 : 4), dtype, to, TO_SUM, length, signs, e);
        advance(plan, scratch, &at, length);
        e += length;
    }
}

/* acc += P[rows]^T g for a whole tile of g in memory; 0 if this tile needs the general way. */
static int fold_tile(const plan *plan, void *memory, const void *g, int dtype, int64_t tile, float *acc)
{
    rotation_scratch *scratch = memory;
    const int64_t first = tile_start(plan, tile), n = tile_start(plan, tile + 1) - first;
    if (plan->p.kind != SUBSPACES_HADAMARD || (plan->p.block != 1 && plan->p.block < BASE) || first + n > plan->tail)
        return 0;
    const uint32_t *signs = signs_at(plan->p.seed, SIGNS, (uint64_t)first, n, scratch->signs);
    const cursor at = cursor_at(plan, scratch, first);
    if (plan->p.block == 1 && dtype == SUBSPACES_F32)
        fold_onehot(plan, scratch, at, n, signs, g, SUBSPACES_F32, acc);
    else if (plan->p.block == 1)
        fold_onehot(plan, scratch, at, n, signs, g, SUBSPACES_BF16, acc);
    else if (dtype == SUBSPACES_F32)
        fold_blocks(plan, scratch, at, n, signs, g, SUBSPACES_F32, acc);
    else
        fold_blocks(plan, scratch, at, n, signs, g, SUBSPACES_BF16, acc);
    return 1;
}
