/* `dense` with entries +-1/sqrt(D), made from their bits when they are needed, specification section 3.
 *
 * Sums by table ("four Russians", Arlazarov, Dinic, Kronrod, Faradzev 1970). The lift: the signs of four entries, as a
 * number, pick one of the 16 sums of +-4 coordinates, made in the order of the specification, from a table. It fills a
 * vector register of 16 floats; of 8, the half where the fourth sign is plus does, for the other sums are their
 * negatives; vectors of four floats have no such permutation and read from memory. So W rows cost a few operations for
 * four columns. The adjoint is the same with rows and columns exchanged, BITS rows at a time, after the sign bits of 32
 * rows have been turned about; vectors of four floats add entry by entry there.
 */
#define QUADS 8                        /* of a sign word: groups of four columns */
#define TABLE_SIZE (W == 8 ? 8 : 16)   /* floats; tables after one another are the form of w */
#if W >= 8
#define BITS (W == 16 ? 4 : 3)
#define LOOKUPS ((32 + BITS - 1) / BITS) /* tables of the adjoint for 32 rows */
#endif

typedef struct {
    uint64_t unused[2];
    uint32_t words[DENSE_ROWS * (DENSE_PANEL + WORDS_SLACK)];
    uint32_t turned[DENSE_ROWS * DENSE_PANEL]; /* word q of row i at [q][i] */
    const uint32_t *row[DENSE_ROWS];
} dense_scratch;

/* Sign words [at, at + width) of n rows from `first` on: their places in scratch->row. */
INLINE void make_words(const plan *plan, dense_scratch *scratch, int64_t first, int64_t n, int64_t at, int64_t width)
{
    const uint64_t word = (uint64_t)first * (uint64_t)plan->words + (uint64_t)at;
    if (width == plan->words) { /* rows follow one another */
        const uint32_t *all = words_at(plan->p.seed, SIGNS, word, n * width, scratch->words);
        for (int64_t i = 0; i < n; i++)
            scratch->row[i] = all + i * width;
    } else {
        for (int64_t i = 0; i < n; i++)
            scratch->row[i] = words_at(plan->p.seed, SIGNS, word + (uint64_t)(i * plan->words), width,
                                       scratch->words + i * (DENSE_PANEL + WORDS_SLACK));
    }
    for (int64_t i = n; i < DENSE_ROWS; i++) /* any signs: these rows are not used */
        scratch->row[i] = scratch->row[0];
}

/* The sums ((+-x0 +- x1) +- x2) +- x3: minus where the bit of the place is set. */
INLINE void make_quad(const float *x, float *table)
{
    for (int i = 0; i < TABLE_SIZE; i++) {
        float sum = i & 1 ? -x[0] : x[0];
        for (int b = 1; b < 4; b++)
            sum += i >> b & 1 ? -x[b] : x[b];
        table[i] = sum;
    }
}

static void dense_prepare(const float *w, int64_t words, float *tables)
{
    for (int64_t quad = 0; quad < words * QUADS; quad++)
        make_quad(w + 4 * quad, tables + quad * TABLE_SIZE);
}

#if W >= 8

INLINE vf picked(vf table, vu index)
{
#if W == 16
    return (vf)_mm512_permutexvar_ps((__m512i)index, (__m512)table);
#else
    return (vf)_mm256_permutevar8x32_ps((__m256)table, (__m256i)index);
#endif
}

/* The bits from BITS k on in the low bits of each lane; what is above them does not matter. */
INLINE vu moved(vu bits, const int k)
{
#if W == 16 /* products and permutations have pipes of their own, shifts and permutations share theirs */
    if (k >= 4)
        bits >>= 16;
    if (k % 4)
        bits = (vu)_mm512_mulhi_epu16((__m512i)bits, _mm512_set1_epi16((short)(1 << (16 - BITS * (k % 4)))));
    return bits;
#else
    return bits >> (BITS * k);
#endif
}

/* The sums of +-x[b], b < n: minus where bit b of the place is set. */
INLINE vf sums_of(const float *x, const int n)
{
    const vu lane = {LANES};
    vf sum = {0};
    for (int b = 0; b < n; b++)
        sum += (vf)((vu)splat(x[b]) ^ (lane >> b << 31));
    return sum;
}

INLINE void make_tables(const float *x, float *tables)
{
    UNROLL for (int k = 0; k < LOOKUPS; k++)
        store(tables + k * W, sums_of(x + BITS * k, BITS * (k + 1) > 32 ? 32 - BITS * k : BITS));
}

/* Sign words as `quad_sum` takes them. For tables of eight: the first three signs of each group turned about where the
 * fourth is minus, which then belongs to the whole sum. */
INLINE vu quad_bits(vu bits)
{
#if W == 8
    const vu fourth = bits & 0x88888888u;
    bits ^= (fourth >> 1) ^ (fourth >> 2) ^ (fourth >> 3);
#endif
    return bits;
}

/* The sum of group k in each lane. */
INLINE vf quad_sum(vf table, vu bits, const int k)
{
#if W == 16
    return picked(table, moved(bits, k));
#else
    return (vf)((vu)picked(table, bits >> (4 * k)) ^ ((bits << (28 - 4 * k)) & SIGN_BIT));
#endif
}

/* One stage of the transposition of W x W words: exchanges bit log2(h) of the row with that of the lane. */
#define KEEP(l, h) ((l) & (h) ? W + (l) - (h) : (l))
#define GIVE(l, h) ((l) & (h) ? W + (l) : (l) + (h))
#if W == 16
#define EACH(f, h)                                                                                                   \
    f(0, h), f(1, h), f(2, h), f(3, h), f(4, h), f(5, h), f(6, h), f(7, h), f(8, h), f(9, h), f(10, h), f(11, h),    \
        f(12, h), f(13, h), f(14, h), f(15, h)
#else
#define EACH(f, h) f(0, h), f(1, h), f(2, h), f(3, h), f(4, h), f(5, h), f(6, h), f(7, h)
#endif
#define EXCHANGE(v, h)                                                                                               \
    UNROLL for (int i_ = 0; i_ < W; i_++)                                                                            \
        if (!(i_ & (h))) {                                                                                           \
            const vu a_ = (v)[i_], b_ = (v)[i_ | (h)];                                                               \
            (v)[i_] = MERGE32(a_, b_, EACH(KEEP, h));                                                                \
            (v)[i_ | (h)] = MERGE32(a_, b_, EACH(GIVE, h));                                                          \
        }

/* turned[q][i] <- row[i][q] for all rows and q < width */
INLINE void turn_words(dense_scratch *scratch, int64_t width)
{
    for (int64_t q = 0; q < width; q += W)
        for (int64_t i = 0; i < DENSE_ROWS; i += W) {
            vu v[W];
            UNROLL for (int k = 0; k < W; k++) v[k] = *(const vu_mem *)(scratch->row[i + k] + q);
            EXCHANGE(v, 1)
            EXCHANGE(v, 2)
            EXCHANGE(v, 4)
#if W == 16
            EXCHANGE(v, 8)
#endif
            UNROLL for (int k = 0; k < W; k++) *(vu_mem *)(scratch->turned + (q + k) * DENSE_ROWS + i) = v[k];
        }
}

static void dense_lift(const plan *plan, void *memory, const float *tables, int64_t tile, float *y)
{
    dense_scratch *scratch = memory;
    const int64_t first = tile_start(plan, tile), n = tile_start(plan, tile + 1) - first;
    for (int64_t row = 0; row < n; row += DENSE_ROWS)
        for (int64_t at = 0; at < plan->words; at += DENSE_PANEL) {
            const int64_t width = smaller(DENSE_PANEL, plan->words - at);
            make_words(plan, scratch, first + row, smaller(DENSE_ROWS, n - row), at, width);
            turn_words(scratch, width);
            for (int64_t i = 0; i < DENSE_ROWS; i += 4 * W) {
                vf sums[4] = {{0}};
                const float *table = tables + at * QUADS * W;
                for (int64_t q = 0; q < width; q++, table += QUADS * W) {
                    const uint32_t *signs = scratch->turned + q * DENSE_ROWS + i;
                    vu bits[4];
                    UNROLL for (int g = 0; g < 4; g++) bits[g] = quad_bits(*(const vu_mem *)(signs + g * W));
                    UNROLL for (int k = 0; k < QUADS; k++)
                    {
                        const vf t = load(table + k * W);
                        UNROLL for (int g = 0; g < 4; g++) sums[g] += quad_sum(t, bits[g], k);
                    }
                }
                for (int g = 0; g < 4; g++) { /* y has room for the rows of a whole tile */
                    float *to = y + row + i + g * W;
                    store(to, at ? load(to) + sums[g] : sums[g]);
                }
            }
        }
}

/* Bit r of v[c] <- bit c of v[r], for 32 vectors, lane by lane. */
INLINE void turn_bits(vu v[32])
{
    const uint32_t masks[5] = {0x0000ffff, 0x00ff00ff, 0x0f0f0f0f, 0x33333333, 0x55555555};
    UNROLL for (int stage = 0; stage < 5; stage++)
    {
        const int h = 16 >> stage;
        const vu low = splat_bits(masks[stage]);
        UNROLL for (int p = 0; p < 16; p++)
        {
            const int i = (p & ~(h - 1)) << 1 | (p & (h - 1));
            const vu a = v[i], b = v[i + h];
            v[i] = (a & low) | (b << h & ~low);
            v[i + h] = (a >> h & low) | (b & ~low);
        }
    }
}

/* acc += P^T g of 32 rows, the columns of W words: column c of word q is number c W + q. */
INLINE void add_columns(const vf tables[LOOKUPS], const uint32_t *const *row, int64_t q, float *acc)
{
    vu v[32];
    UNROLL for (int half = 0; half < 32; half += 16)
        UNROLL for (int i = half; i < half + 16; i++) v[i] = *(const vu_mem *)(row[i] + q);
    turn_bits(v);
    for (int c = 0; c < 32; c++) {
        vf even = load(acc + c * W), odd = {0};
        UNROLL for (int k = 0; k < LOOKUPS; k += 2) even += picked(tables[k], moved(v[c], k));
        UNROLL for (int k = 1; k < LOOKUPS; k += 2) odd += picked(tables[k], moved(v[c], k));
        store(acc + c * W, even + odd);
    }
}

static void dense_adjoint(const plan *plan, void *memory, const float *g, int64_t tile, float *acc)
{
    dense_scratch *scratch = memory;
    const int64_t first = tile_start(plan, tile), n = tile_start(plan, tile + 1) - first;
    for (int64_t row = 0; row < n; row += DENSE_ROWS)
        for (int64_t at = 0; at < plan->words; at += DENSE_PANEL) {
            const int64_t width = smaller(DENSE_PANEL, plan->words - at), rows = smaller(DENSE_ROWS, n - row);
            make_words(plan, scratch, first + row, rows, at, width);
            for (int64_t i = 0; i < rows; i += 32) {
                float part[32] = {0}, sums[LOOKUPS * W];
                for (int64_t k = 0; k < smaller(32, rows - i); k++)
                    part[k] = g[row + i + k] * plan->scale[0];
                make_tables(part, sums);
                vf tables[LOOKUPS];
                UNROLL for (int k = 0; k < LOOKUPS; k++) tables[k] = load(sums + k * W);
                for (int64_t q = 0; q < width; q += W)
                    add_columns(tables, scratch->row + i, q, acc + 32 * (at + q));
            }
        }
}

#else /* W == 4 */
#define BITS 0

/* y[i] += the sum over the columns of `words` sign words, for four rows side by side. */
INLINE void signed_sums(const uint32_t *const *signs, const float *tables, int64_t words, float *y)
{
    float sums[4] = {0};
    for (int64_t q = 0; q < words; q++, tables += QUADS * TABLE_SIZE) {
        uint32_t bits[4];
        UNROLL for (int i = 0; i < 4; i++) bits[i] = signs[i][q];
        UNROLL for (int k = 0; k < QUADS; k++)
            UNROLL for (int i = 0; i < 4; i++) sums[i] += tables[k * TABLE_SIZE + (bits[i] >> (4 * k) & 15)];
    }
    UNROLL for (int i = 0; i < 4; i++) y[i] += sums[i];
}

/* acc += +-scale g of four rows. */
INLINE void signed_add(const uint32_t *const *signs, const float *g, float scale, int64_t n, float *acc, int64_t words)
{
    vf values[4];
    UNROLL for (int i = 0; i < 4; i++) values[i] = splat(i < n ? g[i] * scale : 0);
    for (int64_t q = 0; q < words; q++)
        UNROLL for (int k = 0; k < 32 / W; k++)
        {
            float *to = acc + 32 * q + k * W;
            vf sum = load(to);
            UNROLL for (int i = 0; i < 4; i++) sum += with_signs(values[i], signs[i][q] >> (k * W));
            store(to, sum);
        }
}

INLINE void dense_tile(const plan *plan, dense_scratch *scratch, int64_t tile, const int lift, const float *from,
                       float *to)
{
    const int64_t first = tile_start(plan, tile), n = tile_start(plan, tile + 1) - first;
    for (int64_t row = 0; row < n; row += DENSE_ROWS)
        for (int64_t at = 0; at < plan->words; at += DENSE_PANEL) {
            const int64_t rows = smaller(DENSE_ROWS, n - row), width = smaller(DENSE_PANEL, plan->words - at);
            make_words(plan, scratch, first + row, rows, at, width);
            for (int64_t i = 0; i < rows; i += 4)
                if (lift)
                    signed_sums(scratch->row + i, from + at * QUADS * TABLE_SIZE, width, to + row + i);
                else
                    signed_add(scratch->row + i, from + row + i, plan->scale[0], rows - i, to + 32 * at, width);
        }
}

static void dense_lift(const plan *plan, void *scratch, const float *w, int64_t tile, float *y)
{
    memset(y, 0, sizeof(float) * (size_t)plan->tile_rows);
    dense_tile(plan, scratch, tile, 1, w, y);
}

static void dense_adjoint(const plan *plan, void *scratch, const float *g, int64_t tile, float *acc)
{
    dense_tile(plan, scratch, tile, 0, g, acc);
}
#endif
