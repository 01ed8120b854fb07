/* `dense` with entries +-1/sqrt(D), made from their bits when they are needed, specification section 3. */
#define DENSE_WORDS 1024 /* of a batch of rows */

typedef struct {
    uint64_t unused[2];
    uint32_t words[DENSE_WORDS + WORDS_SLACK];
} dense_scratch;

/* Sum of +-w over the columns of `words` sign words. */
INLINE float signed_sum(const uint32_t *signs, const float *w, int64_t words)
{
    vf sums[32 / W] = {{0}};
    for (int64_t q = 0; q < words; q++)
        UNROLL for (int k = 0; k < 32 / W; k++)
            sums[k] += with_signs(load(w + 32 * q + k * W), signs[q] >> (k * W));
    for (int k = 1; k < 32 / W; k++)
        sums[0] += sums[k];
    float sum = 0;
    for (int i = 0; i < W; i++)
        sum += sums[0][i];
    return sum;
}

/* acc += +-scale g of `rows` rows, whose sign words are `words` apart. */
INLINE void signed_add(const uint32_t *signs, const float *g, float scale, float *acc, int64_t words, const int rows)
{
    vf values[4];
    UNROLL for (int i = 0; i < rows; i++) values[i] = splat(g[i] * scale);
    for (int64_t q = 0; q < words; q++)
        UNROLL for (int k = 0; k < 32 / W; k++)
        {
            float *to = acc + 32 * q + k * W;
            vf sum = load(to);
            UNROLL for (int i = 0; i < rows; i++)
                sum += with_signs(values[i], signs[i * words + q] >> (k * W));
            store(to, sum);
        }
}

/* A batch of rows (all columns) or one row (a panel of columns). */
INLINE void dense_tile(const plan *plan, dense_scratch *scratch, int64_t tile, const int lift, const float *from,
                       float *to)
{
    const int64_t first = tile_start(plan, tile), n = tile_start(plan, tile + 1) - first;
    const int64_t batch = larger(1, DENSE_WORDS / plan->words);
    for (int64_t row = 0; row < n; row += batch)
        for (int64_t at = 0; at < plan->words; at += plan->panel) {
            const int64_t rows = smaller(batch, n - row), width = smaller(plan->panel, plan->words - at);
            const uint64_t word = (uint64_t)(first + row) * (uint64_t)plan->words + (uint64_t)at;
            const uint32_t *signs =
                words_at(plan->p.seed, SIGNS, word, batch > 1 ? rows * width : width, scratch->words);
            if (lift) {
                for (int64_t i = 0; i < rows; i++) {
                    const float sum = signed_sum(signs + i * width, from + 32 * at, width);
                    to[row + i] = at ? to[row + i] + sum : sum;
                }
            } else {
                int64_t i = 0;
                for (; i + 4 <= rows; i += 4)
                    signed_add(signs + i * width, from + row + i, plan->scale[0], to + 32 * at, width, 4);
                for (; i < rows; i++)
                    signed_add(signs + i * width, from + row + i, plan->scale[0], to + 32 * at, width, 1);
            }
        }
}

static void dense_lift(const plan *plan, void *scratch, const float *w, int64_t tile, float *y)
{
    dense_tile(plan, scratch, tile, 1, w, y); /* w comes scaled and padded with zeros */
}

static void dense_adjoint(const plan *plan, void *scratch, const float *g, int64_t tile, float *acc)
{
    dense_tile(plan, scratch, tile, 0, g, acc);
}
