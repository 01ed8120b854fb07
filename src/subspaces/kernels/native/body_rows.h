/* Between the parameters in memory (float32 or bfloat16) and float32 vectors. */

INLINE vf widen(vh h)
{
#if W == 16
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)h), 16);
#elif W == 8
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)h), 16);
#else
    return (vf)(__builtin_convertvector(h, vu) << 16);
#endif
}

/* Round to nearest even; every NaN becomes 0x7fc0, as in torch (but for its AVX2 loop, which makes 0xffff). The
 * instruction of AVX512-BF16 keeps the sign and the payload of a NaN and flushes numbers below 2^-126 to zero: it is
 * used where there is neither. */
INLINE vh narrow(vf v)
{
#if defined(HAVE_BF16)
    if (__builtin_expect(!_mm512_fpclass_ps_mask((__m512)v, 0xa1), 1)) /* quiet NaN, subnormal, signalling NaN */
        return (vh)_mm512_cvtneps_pbh((__m512)v);
#endif
#if W == 16
    const __m512i x = (__m512i)v, even = _mm512_add_epi32(x, _mm512_set1_epi32(0x7fff));
    const __mmask16 odd = _mm512_test_epi32_mask(x, _mm512_set1_epi32(0x10000));
    const __m512i rounded = _mm512_mask_sub_epi32(even, odd, even, _mm512_set1_epi32(-1));
    const __mmask16 nan = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
    return (vh)_mm512_cvtepi32_epi16(
        _mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000)), 16));
#else
    const vu x = (vu)v, rounded = x + 0x7fffu + ((x >> 16) & 1), nan = (vu)(v != v);
    const vu top = ((rounded & ~nan) | (nan & 0x7fc00000u)) >> 16;
#if W == 8
    const __m256i packed = _mm256_packus_epi32((__m256i)top, (__m256i)top); /* within each half */
    return (vh)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
#else
    return __builtin_convertvector(top, vh);
#endif
#endif
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

/* n < W numbers from i on */
INLINE vf load_part_as(const void *p, int64_t i, const int dtype, int64_t n)
{
    if (dtype == SUBSPACES_F32)
        return load_part((const float *)p + i, n);
    uint16_t part[W] = {0};
    memcpy(part, (const uint16_t *)p + i, 2 * (size_t)n);
    return load_as(part, 0, dtype);
}

INLINE void store_part_as(void *p, int64_t i, const int dtype, vf v, int64_t n)
{
    if (dtype == SUBSPACES_F32) {
        store_part((float *)p + i, v, n);
    } else {
        uint16_t part[W];
        store_as(part, 0, dtype, v);
        memcpy((uint16_t *)p + i, part, 2 * (size_t)n);
    }
}

INLINE void emit_typed(void *dst, const int dtype, const void *base, const int base_dtype, const float *y, int64_t n)
{
    int64_t i = 0;
    for (; i + W <= n; i += W)
        store_as(dst, i, dtype, base_dtype < 0 ? load(y + i) : load_as(base, i, base_dtype) + load(y + i));
    if (i < n) {
        const vf part = load_part(y + i, n - i);
        store_part_as(dst, i, dtype, base_dtype < 0 ? part : load_part_as(base, i, base_dtype, n - i) + part, n - i);
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
    if (i < n)
        store_part(y + i, load_part_as(src, i, SUBSPACES_BF16, n - i), n - i);
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
