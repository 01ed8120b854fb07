/* Walsh-Hadamard transforms in registers and in cache-sized pieces (Fino and Algazi 1976 for the recursion).
 *
 * H_m = H_r (x) H_(m/r): `pass` does the r-point transforms across the pieces, recursion the pieces themselves.
 * The factors commute, so signs are applied for free by the register kernel: it runs first when they come
 * before the transform and last when they come after it. In the first case, and without signs, the strides of the
 * butterflies are 1, 2, 4, ... in every instruction set: the order of sums of the specification.
 */
#define BASE (W * R) /* what the register kernel transforms */

enum { PLAIN = 0, BEFORE = 1, AFTER = 2 };

/* lanes a and a xor h: sum and difference; `mask` has the sign bit in the lanes with bit h set */
#define WITHIN(v, list, h)                                                                                           \
    do {                                                                                                             \
        const vu lane_ = {LANES};                                                                                    \
        const vf factor_ = __builtin_convertvector(1 - 2 * (vi)((lane_ / (h)) & 1), vf);                             \
        UNROLL for (int i_ = 0; i_ < r; i_++) (v)[i_] = times_plus((v)[i_], factor_, SWAP((v)[i_], list));                     \
    } while (0)

#define ACROSS(v, h)                                                                                                 \
    UNROLL for (int i_ = 0; i_ < r; i_++)                                                                            \
        if (!(i_ & (h))) {                                                                                           \
            const vf a_ = (v)[i_], b_ = (v)[i_ | (h)];                                                               \
            (v)[i_] = a_ + b_;                                                                                       \
            (v)[i_ | (h)] = a_ - b_;                                                                                 \
        }

/* Where vectors come from and where they go: plain rows, or the caller's memory without a stop in between. */
enum { TO_ROWS, TO_F32, TO_BF16, TO_SUM, TO_PARTS };

typedef struct {
    void *dst;
    const void *base; /* of TO_F32 and TO_BF16: dst = base + v, base of the dtype of dst */
    float factor;     /* of TO_SUM: dst += factor v */
    int64_t cut;      /* of TO_PARTS: dst += v up to here, then part += v; their sums are made in this order */
    float *part;
} sink;

INLINE void give_parts(vf v, int64_t i, const sink to)
{
    float *dst = (i + W <= to.cut ? (float *)to.dst : to.part) + i;
    if (i + W <= to.cut || i >= to.cut) {
        store(dst, load(dst) + v);
        return;
    }
    float rows[W];
    store(rows, v);
    for (int64_t k = 0; k < W; k++)
        (i + k < to.cut ? (float *)to.dst : to.part)[i + k] += rows[k];
}

INLINE void give(vf v, int64_t i, const int how, const sink to)
{
    if (how == TO_ROWS)
        store((float *)to.dst + i, v);
    else if (how == TO_PARTS)
        give_parts(v, i, to);
    else if (how == TO_SUM)
        store((float *)to.dst + i, times_plus(v, splat(to.factor), load((float *)to.dst + i)));
    else if (how == TO_F32)
        store((float *)to.dst + i, load((const float *)to.base + i) + v);
    else
        store_as(to.dst, i, SUBSPACES_BF16, load_as(to.base, i, SUBSPACES_BF16) + v);
}

/* W floats from row i on of rows that lie at src up to row `cut`, then at `part`; more than these may be read. */
INLINE vf load_parts(const float *src, const float *part, int64_t cut, int64_t i)
{
    if (i + W <= cut || i >= cut)
        return load((i < cut ? src : part) + i);
    const vi first = (vi){LANES} < (vi){0} + (int32_t)(cut - i);
    return (vf)(((vi)load(src + i) & first) | ((vi)load(part + i) & ~first));
}

/* What is done with the r vectors v that a transform works on: signs before it, the transform, signs after it. */
INLINE void transform_registers(vf v[16], const sink to, const int how, const int r, const int lanes, const int across,
                                const int when, const uint32_t *signs, int64_t e)
{
    if (when != PLAIN && r * W >= 32) { /* now the places within a word are constants */
        signs += e >> 5;
        e = 0;
    }
    if (when == BEFORE)
        UNROLL for (int i = 0; i < r; i++) v[i] = signed_at(v[i], signs, e, i);
    if (lanes > 1)
        WITHIN(v, XOR1, 1);
    if (lanes > 2)
        WITHIN(v, XOR2, 2);
#if W > 4
    if (lanes > 4)
        WITHIN(v, XOR4, 4);
#endif
#if W > 8
    if (lanes > 8)
        WITHIN(v, XOR8, 8);
#endif
    if (across > 1)
        ACROSS(v, 1)
    if (across > 2)
        ACROSS(v, 2)
    if (across > 4)
        ACROSS(v, 4)
    if (across > 8)
        ACROSS(v, 8)
    UNROLL for (int i = 0; i < r; i++)
    {
        if (when == AFTER)
            v[i] = signed_at(v[i], signs, e, i);
        give(v[i], i * W, how, to);
    }
}

/* r vectors: transforms of length `across` times min(lanes, W); e is the place of src in the packed signs. */
INLINE void registers(const void *src, const int dtype, const sink to, const int how, const int r, const int lanes,
                      const int across, const int when, const uint32_t *signs, int64_t e)
{
    vf v[16];
    UNROLL for (int i = 0; i < r; i++) v[i] = load_as(src, i * W, dtype);
    transform_registers(v, to, how, r, lanes, across, when, signs, e);
}

INLINE void register_rows(const float *src, float *dst, const int r, const int lanes, const int across, const int when,
                          const uint32_t *signs, int64_t e)
{
    registers(src, SUBSPACES_F32, (sink){.dst = dst}, TO_ROWS, r, lanes, across, when, signs, e);
}

/* columns from..to of r rows, `stride` apart */
INLINE void stride_pass(const void *src, const int dtype, const sink to, const int how, const int r, int64_t stride,
                        int64_t from, int64_t end)
{
    for (int64_t i = from; i < end; i += W) {
        vf v[16];
        UNROLL for (int k = 0; k < r; k++) v[k] = load_as(src, k * stride + i, dtype);
        if (r > 1)
            ACROSS(v, 1)
        if (r > 2)
            ACROSS(v, 2)
        if (r > 4)
            ACROSS(v, 4)
        UNROLL for (int k = 0; k < r; k++) give(v[k], k * stride + i, how, to);
    }
}

INLINE void radix_pass_to(const void *src, const int dtype, const sink to, const int how, int radix, int64_t stride,
                          int64_t from, int64_t end)
{
    if (radix == 8)
        stride_pass(src, dtype, to, how, 8, stride, from, end);
    else if (radix == 4)
        stride_pass(src, dtype, to, how, 4, stride, from, end);
    else
        stride_pass(src, dtype, to, how, 2, stride, from, end);
}

static void radix_pass(const float *src, float *dst, int radix, int64_t stride, int64_t from, int64_t end)
{
    radix_pass_to(src, SUBSPACES_F32, (sink){.dst = dst}, TO_ROWS, radix, stride, from, end);
}

static void pass(float *x, int radix, int64_t stride, int64_t from, int64_t end)
{
    radix_pass(x, x, radix, stride, from, end);
}

INLINE void register_block(const float *src, float *dst, int64_t m, const int when, const uint32_t *signs, int64_t e)
{
    switch (m / W) {
    case 1: register_rows(src, dst, 1, W, 1, when, signs, e); break;
    case 2: register_rows(src, dst, 2, W, 2, when, signs, e); break;
    case 4: register_rows(src, dst, 4, W, 4, when, signs, e); break;
#if R == 16
    case 8: register_rows(src, dst, 8, W, 8, when, signs, e); break;
#endif
    default: register_rows(src, dst, R, W, R, when, signs, e);
    }
}

INLINE int radix_of(int64_t m) { return m / BASE >= 8 ? 8 : (int)(m / BASE); }

#define DEFINE_BLOCK(name, when)                                                                                     \
    static void name(const float *src, float *dst, int64_t m, const uint32_t *signs, int64_t e)                      \
    {                                                                                                                \
        if (m <= BASE) {                                                                                             \
            register_block(src, dst, m, when, signs, e);                                                             \
            return;                                                                                                  \
        }                                                                                                            \
        const int radix = radix_of(m);                                                                               \
        const int64_t part = m / radix;                                                                              \
        if ((when) == AFTER)                                                                                         \
            radix_pass(src, dst, radix, part, 0, part);                                                              \
        for (int k = 0; k < radix; k++)                                                                              \
            name(((when) == AFTER ? dst : src) + k * part, dst + k * part, part, signs, e + k * part);               \
        if ((when) != AFTER)                                                                                         \
            radix_pass(dst, dst, radix, part, 0, part);                                                              \
    }
DEFINE_BLOCK(block_plain, PLAIN)
DEFINE_BLOCK(block_before, BEFORE)
DEFINE_BLOCK(block_after, AFTER)

/* blocks shorter than a vector: several of them side by side in the lanes; n floats */
INLINE void narrow_blocks(const float *src, float *dst, int64_t n, const int m, const int when, const uint32_t *signs)
{
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W)
        register_rows(src + i, dst + i, 4, m, 1, when, signs, i);
    for (; i + W <= n; i += W)
        register_rows(src + i, dst + i, 1, m, 1, when, signs, i);
    if (i < n) {
        float last[W] = {0};
        memcpy(last, src + i, sizeof(float) * (size_t)(n - i));
        register_rows(last, last, 1, m, 1, when, signs, i);
        memcpy(dst + i, last, sizeof(float) * (size_t)(n - i));
    }
}

INLINE void many_blocks(const float *src, float *dst, int64_t m, int64_t count, const int when, const uint32_t *signs)
{
    if (m == 1)
        narrow_blocks(src, dst, count, 1, when, signs);
    else if (m == 2)
        narrow_blocks(src, dst, count * 2, 2, when, signs);
#if W > 4
    else if (m == 4)
        narrow_blocks(src, dst, count * 4, 4, when, signs);
#endif
#if W > 8
    else if (m == 8)
        narrow_blocks(src, dst, count * 8, 8, when, signs);
#endif
    else if (m == BASE) /* the common case, without a call per block */
        for (int64_t k = 0; k < count; k++)
            register_rows(src + k * m, dst + k * m, R, W, R, when, signs, k * m);
    else
        for (int64_t k = 0; k < count; k++) {
            if (when == BEFORE)
                block_before(src + k * m, dst + k * m, m, signs, k * m);
            else if (when == AFTER)
                block_after(src + k * m, dst + k * m, m, signs, k * m);
            else
                block_plain(src + k * m, dst + k * m, m, NULL, 0);
        }
}

/* count transforms of length m; one of the two arrays of packed signs, or neither, is given. */
static void hadamard(const float *src, float *dst, int64_t m, int64_t count, const uint32_t *signs_before,
                     const uint32_t *signs_after)
{
    if (signs_before)
        many_blocks(src, dst, m, count, BEFORE, signs_before);
    else if (signs_after)
        many_blocks(src, dst, m, count, AFTER, signs_after);
    else
        many_blocks(src, dst, m, count, PLAIN, NULL);
}
