/* `dense` with entries +-1/sqrt(D), made from their bits when they are needed, specification section 3. */
#define DENSE_WORDS 1024 /* of a batch of rows */

typedef struct {
    uint64_t unused[2];
    uint32_t words[DENSE_WORDS + WORDS_SLACK];
} dense_scratch;

/* y[i] = sum of +-w over the columns of `words` sign words, for `rows` rows side by side. */
INLINE void signed_sums(const uint32_t *signs, const float *w, int64_t words, const int rows, float *y)
{
    vf sums[4][32 / W] = {{{0}}};
    for (int64_t q = 0; q < words; q++)
        UNROLL for (int k = 0; k < 32 / W; k++)
        {
            const vf v = load(w + 32 * q + k * W);
            UNROLL for (int i = 0; i < rows; i++) sums[i][k] += with_signs(v, signs[i * words + q] >> (k * W));
        }
    UNROLL for (int i = 0; i < rows; i++)
    {
        for (int k = 1; k < 32 / W; k++)
            sums[i][0] += sums[i][k];
        float parts[W];
        store(parts, sums[i][0]);
        for (int step = W / 2; step > 0; step /= 2)
            for (int j = 0; j < step; j++)
                parts[j] += parts[j + step];
        y[i] += parts[0];
    }
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
            int64_t i = 0;
            for (; i + 4 <= rows; i += 4)
                if (lift)
                    signed_sums(signs + i * width, from + 32 * at, width, 4, to + row + i);
                else
                    signed_add(signs + i * width, from + row + i, plan->scale[0], to + 32 * at, width, 4);
            for (; i < rows; i++)
                if (lift)
                    signed_sums(signs + i * width, from + 32 * at, width, 1, to + row + i);
                else
                    signed_add(signs + i * width, from + row + i, plan->scale[0], to + 32 * at, width, 1);
        }
}

static void dense_lift(const plan *plan, void *scratch, const float *w, int64_t tile, float *y)
{
    memset(y, 0, sizeof(float) * (size_t)(tile_start(plan, tile + 1) - tile_start(plan, tile)));
    dense_tile(plan, scratch, tile, 1, w, y); /* w comes scaled and padded with zeros */
}

static void dense_adjoint(const plan *plan, void *scratch, const float *g, int64_t tile, float *acc)
{
    dense_tile(plan, scratch, tile, 0, g, acc);
}
