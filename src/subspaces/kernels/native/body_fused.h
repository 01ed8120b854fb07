/* `hadamard` and `onehot` on a whole tile that lies in one piece of memory: one pass over that memory, with the
 * transform in registers between the read and the write. */

#define AHEAD 512 /* rows */
#define FAR 2048  /* rows, where nothing but a sum is done with them */

/* Ask for n rows of memory AHEAD of the transform that works on them, or just before it: it is too long for the
 * processor to look past it by itself. */
INLINE void ask_to_read(const void *p, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 64)
        __builtin_prefetch((const char *)p + i, 0);
}

/* dst, and base where that is another place. */
INLINE void ask_to_write(const sink to, const int how, int64_t from, int64_t n)
{
    const int64_t size = how == TO_BF16 ? 2 : 4;
    if (to.base != to.dst)
        ask_to_read((const char *)to.base + from * size, n * size);
    for (int64_t i = 0; i < n * size; i += 64)
        __builtin_prefetch((const char *)to.dst + from * size + i, 0);
}

#if W == 8
#define QUAD (4 * BASE) /* the default block does not fit the registers: four transforms of a part, one across them */
#else
#define QUAD 0
#endif

/* Two columns that a block of rows reads, the second from row `cut` on, where a stretch of rows ends in it. */
typedef struct {
    int64_t first, second, cut;
} columns;

/* Whether the next block of rows is of one stretch (cut = m) or two, whose columns are doubled; goes on if so. */
INLINE int take_columns(const plan *plan, rotation_scratch *scratch, cursor *at, int64_t m, columns *found)
{
    const int64_t cut = stretch_of(plan, *at, m);
    if (cut < m && !(plan->doubled && (m == BASE || m == QUAD) && m - cut <= plan->p.d))
        return 0;
    *found = (columns){.first = at->column, .cut = cut};
    advance(plan, scratch, at, cut);
    if (cut < m) {
        found->second = at->column - cut;
        advance(plan, scratch, at, m - cut);
    }
    return 1;
}

/* R vectors of w from z on, times their scale unless that is in them already. */
INLINE void load_columns(vf v[16], const float *z, float factor, const int scaled)
{
    UNROLL for (int i = 0; i < R; i++)
    {
        v[i] = load(z + i * W);
        if (!scaled)
            v[i] *= factor;
    }
}

#if QUAD
/* base + H (signs z) for a block of QUAD rows that reads one or two pieces of w. */
INLINE void lift_quad(const float *w, const columns at, float factor, const int scaled, const uint32_t *signs,
                      int64_t e, const sink to, const int how)
{
    float rows[QUAD] __attribute__((aligned(64)));
    for (int64_t k = 0; k < QUAD; k += BASE) {
        const int64_t cut = at.cut - k;
        vf v[16];
        ask_to_write(to, how, AHEAD + k, BASE);
        if (cut >= BASE || cut <= 0) {
            load_columns(v, w + (cut > 0 ? at.first : at.second) + k, factor, scaled);
        } else { /* of a doubled w, which is scaled */
            UNROLL for (int i = 0; i < R; i++) v[i] = load_parts(w + at.first + k, w + at.second + k, cut, i * W);
        }
        transform_registers(v, (sink){.dst = rows + k}, TO_ROWS, R, W, R, BEFORE, signs, e + k);
    }
    stride_pass(rows, SUBSPACES_F32, to, how, 4, BASE, 0, BASE);
}

/* Eight floats after the transform's stage between their halves: loads that repeat a half need no shuffle, which
 * makes an adjoint in cache 7 % shorter. */
INLINE vf load_across(const float *p)
{
    const vf low = (vf)_mm256_broadcast_ps((const __m128 *)p), high = (vf)_mm256_broadcast_ps((const __m128 *)(p + 4));
    const vf sign = {1, 1, 1, 1, -1, -1, -1, -1};
    return times_plus(high, sign, low);
}

/* acc += factor (signs H g) for a block of QUAD rows of g; a block of two pieces has the factor 1. */
INLINE void fold_quad(const char *g, const int dtype, const columns at, float factor, const uint32_t *signs, int64_t e,
                      float *acc)
{
    const int64_t size = dtype == SUBSPACES_BF16 ? 2 : 4;
    float rows[QUAD] __attribute__((aligned(64)));
    stride_pass(g, dtype, (sink){.dst = rows}, TO_ROWS, 4, BASE, 0, BASE);
    for (int64_t k = 0; k < QUAD; k += BASE) {
        const int64_t cut = at.cut - k;
        vf v[16];
        ask_to_read(g + (AHEAD + k) * size, BASE * size);
        UNROLL for (int i = 0; i < R; i++) v[i] = load_across(rows + k + i * W);
        if (cut >= BASE || cut <= 0) {
            const sink to = {.dst = acc + (cut > 0 ? at.first : at.second) + k, .factor = factor};
            transform_registers(v, to, TO_SUM, R, W / 2, R, AFTER, signs, e + k);
        } else {
            const sink to = {.dst = acc + at.first + k, .part = acc + at.second + k, .cut = cut};
            transform_registers(v, to, TO_PARTS, R, W / 2, R, AFTER, signs, e + k);
        }
    }
}
#endif

/* One block of BASE rows from z (or w itself) to memory: base + H (signs z). */
INLINE void lift_base(const float *z, float factor, const int scaled, const uint32_t *signs, int64_t e, const sink to,
                      const int how)
{
    vf v[16];
    ask_to_write(to, how, AHEAD, BASE);
    load_columns(v, z, factor, scaled);
    transform_registers(v, to, how, R, W, R, BEFORE, signs, e);
}

/* The same for a longer block, of which z holds the scaled columns. */
INLINE void lift_block(const plan *plan, float *rows, const float *z, const uint32_t *signs, int64_t e, const sink to,
                       const int how)
{
    const int64_t m = plan->p.block;
    const int radix = radix_of(m);
    const int64_t part = m / radix;
    for (int64_t k = 0; k < m; k += part) {
        ask_to_write(to, how, k, part);
        block_before(z + k, rows + k, part, signs, e + k);
    }
    radix_pass_to(rows, SUBSPACES_F32, to, how, radix, part, 0, part);
}

/* A block of BASE rows that reads two pieces of a doubled w. */
INLINE void lift_parts(const float *w, const columns at, const uint32_t *signs, int64_t e, const sink to, const int how)
{
    vf v[16];
    ask_to_write(to, how, AHEAD, BASE);
    UNROLL for (int i = 0; i < R; i++) v[i] = load_parts(w + at.first, w + at.second, at.cut, i * W);
    transform_registers(v, to, how, R, W, R, BEFORE, signs, e);
}

/* Whole blocks; `scaled`: w holds its scales already, and every column twice. */
INLINE void write_blocks(const plan *plan, rotation_scratch *scratch, cursor at, int64_t n, const uint32_t *signs,
                         const float *w, sink to, const int how, const int scaled)
{
    const int64_t m = plan->p.block, size = how == TO_BF16 ? 2 : 4;
    const int direct = scaled || m == BASE || m == QUAD;
    for (int64_t e = 0; e < n; e += m) {
        columns found;
        const float factor = scaled ? 1 : plan->scale[is_inside(plan, at)];
        if (!direct || !take_columns(plan, scratch, &at, m, &found)) {
            fill(plan, scratch, &at, m, w, scratch->rows);
            if (m == BASE)
                lift_base(scratch->rows, 1, 1, signs, e, to, how);
            else
                lift_block(plan, scratch->rows, scratch->rows, signs, e, to, how);
#if QUAD
        } else if (m == QUAD) {
            lift_quad(w, found, factor, scaled, signs, e, to, how);
#endif
        } else if (found.cut < m) {
            lift_parts(w, found, signs, e, to, how);
        } else if (m == BASE) {
            lift_base(w + found.first, factor, scaled, signs, e, to, how);
        } else {
            lift_block(plan, scratch->rows, w + found.first, signs, e, to, how);
        }
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
        piece(w + at.column, SUBSPACES_F32, to, how, length, signs, e, 0);
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
    else if (dtype == SUBSPACES_F32 && plan->doubled)
        write_blocks(plan, scratch, at, n, signs, w, to, TO_F32, 1);
    else if (dtype == SUBSPACES_F32)
        write_blocks(plan, scratch, at, n, signs, w, to, TO_F32, 0);
    else if (plan->doubled)
        write_blocks(plan, scratch, at, n, signs, w, to, TO_BF16, 1);
    else
        write_blocks(plan, scratch, at, n, signs, w, to, TO_BF16, 0);
    return 1;
}

INLINE void fold_blocks(const plan *plan, rotation_scratch *scratch, cursor at, int64_t n, const uint32_t *signs,
                        const char *g, const int dtype, float *acc)
{
    const int64_t m = plan->p.block;
    const int64_t size = dtype == SUBSPACES_BF16 ? 2 : 4;
    float *rows = scratch->rows;
    for (int64_t e = 0; e < n; e += m, g += m * size) {
        columns found;
        const float factor = plan->scale[is_inside(plan, at)];
        if (m <= BASE)
            ask_to_read(g + AHEAD * size, m * size);
#if QUAD
        if (m == QUAD && take_columns(plan, scratch, &at, m, &found)) {
            fold_quad(g, dtype, found, factor, signs, e, acc);
            continue;
        }
#endif
        if (m > BASE) {
            const int radix = radix_of(m);
            const int64_t part = m / radix;
            radix_pass_to(g, dtype, (sink){.dst = rows}, TO_ROWS, radix, part, 0, part);
            for (int64_t k = 0; k < m; k += part) {
                ask_to_read(g + (m + k) * size, part * size);
                block_after(rows + k, rows + k, part, signs, e + k);
            }
            collect(plan, scratch, &at, m, rows, acc);
        } else if (!take_columns(plan, scratch, &at, m, &found)) {
            registers(g, dtype, (sink){.dst = rows}, TO_ROWS, R, W, R, AFTER, signs, e);
            collect(plan, scratch, &at, m, rows, acc);
        } else if (found.cut == m) {
            const sink to = {.dst = acc + found.first, .factor = factor};
            registers(g, dtype, to, TO_SUM, R, W, R, AFTER, signs, e);
        } else {
            const sink to = {.dst = acc + found.first, .part = acc + found.second, .cut = found.cut};
            registers(g, dtype, to, TO_PARTS, R, W, R, AFTER, signs, e);
        }
    }
}

INLINE void fold_onehot(const plan *plan, rotation_scratch *scratch, cursor at, int64_t n, const uint32_t *signs,
                        const char *g, const int dtype, float *acc)
{
    for (int64_t e = 0; e < n;) {
        const int64_t length = stretch_of(plan, at, n - e);
        const sink to = {.dst = acc + at.column, .factor = plan->scale[is_inside(plan, at)]};
        piece(g + e * (dtype == SUBSPACES_BF16 ? 2 : 4), dtype, to, TO_SUM, length, signs, e, FAR);
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
