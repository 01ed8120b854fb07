/* Between the parameters in memory (float32 or bfloat16) and float32 rows in the cache. */

INLINE vf widen(vh h) { return (vf)(__builtin_convertvector(h, vu) << 16); }

/* round to nearest even; every NaN becomes 0x7fc0, as in torch */
INLINE vh narrow(vf v)
{
    const vu x = (vu)v, magnitude = x & 0x7fffffffu;
    const vu rounded = (x + 0x7fffu + ((x >> 16) & 1)) >> 16;
    const vu nan = (vu)((vi)magnitude > (vi)splat_bits(0x7f800000u));
    return __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0u), vh);
}

INLINE vf load_as(const void *p, int64_t i, const int dtype)
{
    if (dtype == SUBSPACES_F32)
        return load((const float *)p + i);
    return widen(*(const vh_mem *)((const uint16_t *)p + i));
}

INLINE void store_as(void *p, int64_t i, const int dtype, vf v)
{
    if (dtype == SUBSPACES_F32)
        store((float *)p + i, v);
    else
        *(vh_mem *)((uint16_t *)p + i) = narrow(v);
}

#define SIZE_OF(dtype) ((dtype) == SUBSPACES_F32 ? 4 : 2)

INLINE void emit_typed(void *dst, const int dtype, const void *base, const int base_dtype, const float *y, int64_t n)
{
    int64_t i = 0;
    for (; i + W <= n; i += W)
        store_as(dst, i, dtype, base_dtype < 0 ? load(y + i) : load_as(base, i, base_dtype) + load(y + i));
    if (i < n) {
        const int64_t rest = n - i;
        uint32_t in[W] = {0}, out[W];
        if (base_dtype >= 0)
            memcpy(in, (const char *)base + i * SIZE_OF(base_dtype), (size_t)(rest * SIZE_OF(base_dtype)));
        const vf part = load_part(y + i, rest);
        store_as(out, 0, dtype, base_dtype < 0 ? part : load_as(in, 0, base_dtype) + part);
        memcpy((char *)dst + i * SIZE_OF(dtype), out, (size_t)(rest * SIZE_OF(dtype)));
    }
}

/* dst <- base + y (y alone if base_dtype < 0); base may be dst. */
static void emit(void *dst, int dtype, const void *base, int base_dtype, const float *y, int64_t n)
{
    switch (3 * dtype + base_dtype + 1) {
    case 0: emit_typed(dst, SUBSPACES_F32, base, -1, y, n); break;
    case 1: emit_typed(dst, SUBSPACES_F32, base, SUBSPACES_F32, y, n); break;
    case 2: emit_typed(dst, SUBSPACES_F32, base, SUBSPACES_BF16, y, n); break;
    case 3: emit_typed(dst, SUBSPACES_BF16, base, -1, y, n); break;
    case 4: emit_typed(dst, SUBSPACES_BF16, base, SUBSPACES_F32, y, n); break;
    default: emit_typed(dst, SUBSPACES_BF16, base, SUBSPACES_BF16, y, n);
    }
}

/* y <- src in float32 */
static void load_rows(float *y, const void *src, int dtype, int64_t n)
{
    if (dtype == SUBSPACES_F32) {
        memcpy(y, src, sizeof(float) * (size_t)n);
        return;
    }
    int64_t i = 0;
    for (; i + W <= n; i += W)
        store(y + i, load_as(src, i, SUBSPACES_BF16));
    for (; i < n; i++) {
        const uint32_t bits = (uint32_t)((const uint16_t *)src)[i] << 16;
        memcpy(y + i, &bits, 4);
    }
}

static void multiply(float *x, int64_t n, float factor)
{
    for (int64_t i = 0; i < n; i++)
        x[i] *= factor;
}

static void add64(double *total, const double *more, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        total[i] += more[i];
}

static void flush(double *total, float *part, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        total[i] += (double)part[i];
        part[i] = 0;
    }
}

static void settle(float *out, const double *total, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)((double)out[i] + total[i]);
}
