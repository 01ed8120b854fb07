/* Vectors of W floats for one instruction set. Included once per isa_*.c after W was defined. */
#ifndef W
#error "define W, the floats of a vector, first"
#endif
#define L (W / 2) /* 64-bit lanes */

typedef float vf __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint64_t vq __attribute__((vector_size(4 * W)));
typedef uint16_t vh __attribute__((vector_size(2 * W)));
/* the same in memory: any alignment of an element, and allowed to alias */
typedef float vf_mem __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint32_t vu_mem __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint16_t vh_mem __attribute__((vector_size(2 * W), aligned(2), may_alias));

typedef uint16_t half_mem __attribute__((may_alias));

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(__clang__) || __GNUC__ >= 12
#define SWAP(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#define MERGE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#define MERGE32 MERGE
#else
#define SWAP(v, ...) __builtin_shuffle(v, (vi){__VA_ARGS__})
#define MERGE(a, b, ...) __builtin_shuffle(a, b, (vq){__VA_ARGS__})
#define MERGE32(a, b, ...) __builtin_shuffle(a, b, (vu){__VA_ARGS__})
#endif

#if W == 16
#define LANES 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
#define LANES64 0, 1, 2, 3, 4, 5, 6, 7
#define XOR1 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14
#define XOR2 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13
#define XOR4 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11
#define XOR8 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7
#define FIRST_HALVES 0, 8, 1, 9, 2, 10, 3, 11
#define SECOND_HALVES 4, 12, 5, 13, 6, 14, 7, 15
#elif W == 8
#define LANES 0, 1, 2, 3, 4, 5, 6, 7
#define LANES64 0, 1, 2, 3
#define XOR1 1, 0, 3, 2, 5, 4, 7, 6
#define XOR2 2, 3, 0, 1, 6, 7, 4, 5
#define XOR4 4, 5, 6, 7, 0, 1, 2, 3
#define FIRST_HALVES 0, 4, 1, 5
#define SECOND_HALVES 2, 6, 3, 7
#else
#define LANES 0, 1, 2, 3
#define LANES64 0, 1
#define XOR1 1, 0, 3, 2
#define XOR2 2, 3, 0, 1
#define FIRST_HALVES 0, 2
#define SECOND_HALVES 1, 3
#endif

#define SIGN_BIT 0x80000000u

INLINE vf load(const float *p) { return *(const vf_mem *)p; }
INLINE void store(float *p, vf v) { *(vf_mem *)p = v; }
INLINE vf splat(float x) { return (vf){0} + x; }
INLINE vu splat_bits(uint32_t x) { return (vu){0} + x; }

/* a b + c. The build fuses no product with a sum by itself (-ffp-contract=off), so that every instruction set rounds
 * alike. This is for products with +-1, which are exact, and for adjoints, which may round as they like. */
INLINE vf times_plus(vf a, vf b, vf c)
{
#if W == 16
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif W == 8
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

/* The sign bits of lanes 0..W-1, given by the low W bits of `bits` (1 is minus). */
INLINE vu lane_signs(uint32_t bits)
{
    const vu lane = {LANES};
#if W == 4 /* no shift by a different amount per lane in the oldest x86 */
    const vu one = {1, 2, 4, 8};
    (void)lane;
    return (vu)((splat_bits(bits) & one) != 0) & SIGN_BIT;
#else
    return (splat_bits(bits) << (31 - lane)) & SIGN_BIT;
#endif
}

/* v with the signs of lanes 0..W-1 */
INLINE vf with_signs(vf v, uint32_t bits)
{
#if W == 16
    return (vf)_mm512_mask_xor_epi32((__m512i)v, (__mmask16)bits, (__m512i)v, _mm512_set1_epi32((int)SIGN_BIT));
#else
    return (vf)((vu)v ^ lane_signs(bits));
#endif
}

/* The packed signs from element e on: W of them in the low bits. e is a multiple of W, or any number. */
INLINE uint32_t aligned_bits(const uint32_t *signs, int64_t e)
{
#if W == 16
    return *((const half_mem *)signs + (e >> 4)); /* loaded into a mask register at once */
#else
    return signs[e >> 5] >> (e & 31);
#endif
}

#if W == 8
/* The sign bits of eight lanes for each byte: one load in place of a shift and a mask per vector (5 to 8 % of a
 * transform on Zen 3). */
#define BYTE(b)                                                                                                      \
    {(b) << 31, (b) >> 1 << 31, (b) >> 2 << 31, (b) >> 3 << 31, (b) >> 4 << 31, (b) >> 5 << 31, (b) >> 6 << 31,      \
     (b) >> 7 << 31}
#define BYTES4(b) BYTE(b), BYTE((b) + 1), BYTE((b) + 2), BYTE((b) + 3)
#define BYTES16(b) BYTES4(b), BYTES4((b) + 4), BYTES4((b) + 8), BYTES4((b) + 12)
#define BYTES64(b) BYTES16(b), BYTES16((b) + 16), BYTES16((b) + 32), BYTES16((b) + 48)
static const vu BYTE_SIGNS[256] = {BYTES64(0u), BYTES64(64u), BYTES64(128u), BYTES64(192u)};

/* v with the signs of byte k of a word that all lanes hold: one broadcast serves four vectors */
INLINE vf with_byte(vf v, vu word, const int k)
{
    const vu lane = {LANES};
    return (vf)((vu)v ^ ((word << ((uint32_t)(31 - W * k) - lane)) & SIGN_BIT));
}
#endif

/* v with the packed signs of its elements, vector i of those from element e on. */
INLINE vf signed_at(vf v, const uint32_t *signs, int64_t e, const int i)
{
#if W == 8
    if (e == 0) /* known when this is compiled */
        return (vf)((vu)v ^ BYTE_SIGNS[((const uint8_t *)signs)[i]]);
#endif
    return with_signs(v, aligned_bits(signs, e + i * W));
}

INLINE uint32_t unaligned_bits(const uint32_t *signs, int64_t e)
{
    uint32_t bits;
    memcpy(&bits, (const char *)signs + (e >> 3), 4);
    return bits >> (e & 7);
}

/* The same with 32 of them. */
INLINE uint32_t unaligned_word(const uint32_t *signs, int64_t e)
{
    uint64_t bits;
    memcpy(&bits, (const char *)signs + (e >> 3), 8);
    return (uint32_t)(bits >> (e & 7));
}

/* The first n < W floats, zero after them; and the way back. Memory past n is not touched. */
#if W == 16
INLINE vf load_part(const float *p, int64_t n) { return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
INLINE void store_part(float *p, vf v, int64_t n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v); }
#elif W == 8
INLINE __m256i part_mask(int64_t n)
{
    const vi lane = {LANES};
    return (__m256i)(lane < (vi){0} + (int32_t)n);
}
INLINE vf load_part(const float *p, int64_t n) { return (vf)_mm256_maskload_ps(p, part_mask(n)); }
INLINE void store_part(float *p, vf v, int64_t n) { _mm256_maskstore_ps(p, part_mask(n), (__m256)v); }
#else
INLINE vf load_part(const float *p, int64_t n)
{
    vf v = {0};
    for (int64_t i = 0; i < n; i++)
        v[i] = p[i];
    return v;
}
INLINE void store_part(float *p, vf v, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        p[i] = v[i];
}
#endif
