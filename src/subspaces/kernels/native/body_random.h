/* Philox4x32-10 on L counters at once (Salmon et al., SC 2011, section 4), specification section 1. */

/* low 32 bits of each lane times m: a 64-bit product */
INLINE vq times(vq a, uint32_t m)
{
#if W == 16
    return (vq)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(m));
#elif W == 8
    return (vq)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(m));
#elif defined(__SSE2__)
    return (vq)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(m));
#else
    return (a & 0xffffffffu) * (uint64_t)m;
#endif
}

#define GROUPS 4 /* vectors of counters side by side: their rounds fill each other's waits */

/* groups L blocks from `first` on -> their words in order. Only the low halves of the lanes count between rounds. */
INLINE void philox_lanes(uint64_t first, uint64_t seed, uint64_t stream, uint32_t *out, const int groups)
{
    const vq lane = {LANES64};
    vq a[GROUPS], b[GROUPS], c[GROUPS], d[GROUPS];
    vq k0 = (vq){0} + seed, k1 = (vq){0} + (seed >> 32);
    UNROLL for (int g = 0; g < groups; g++)
    {
        a[g] = lane + (first + (uint64_t)g * L);
        b[g] = a[g] >> 32;
        c[g] = (vq){0} + stream;
        d[g] = (vq){0} + (stream >> 32);
    }
    UNROLL for (int round = 0; round < 10; round++)
    {
        UNROLL for (int g = 0; g < groups; g++)
        {
            const vq p = times(a[g], 0xD2511F53u), q = times(c[g], 0xCD9E8D57u);
            a[g] = (q >> 32) ^ b[g] ^ k0;
            b[g] = q;
            c[g] = (p >> 32) ^ d[g] ^ k1;
            d[g] = p;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    UNROLL for (int g = 0; g < groups; g++)
    {
        const vq front = (a[g] & 0xffffffffu) | (b[g] << 32), back = (c[g] & 0xffffffffu) | (d[g] << 32);
        *(vu_mem *)(out + 2 * W * g) = (vu)MERGE(front, back, FIRST_HALVES);
        *(vu_mem *)(out + 2 * W * g + W) = (vu)MERGE(front, back, SECOND_HALVES);
    }
}

static void philox(uint64_t seed, uint64_t stream, uint64_t first_block, int64_t blocks, uint32_t *out)
{
    int64_t i = 0;
    for (; i + GROUPS * L <= blocks; i += GROUPS * L)
        philox_lanes(first_block + (uint64_t)i, seed, stream, out + 4 * i, GROUPS);
    for (; i + 2 * L <= blocks; i += 2 * L)
        philox_lanes(first_block + (uint64_t)i, seed, stream, out + 4 * i, 2);
    for (; i < blocks; i += L) {
        uint32_t last[4 * L];
        philox_lanes(first_block + (uint64_t)i, seed, stream, last, 1);
        memcpy(out + 4 * i, last, 16 * (size_t)smaller(L, blocks - i));
    }
}

#define WORDS_SLACK 8 /* how much longer than `count` the buffer of words_at and signs_at must be */

/* word(seed, stream, first + i) for i < count: a pointer into the buffer. */
INLINE uint32_t *words_at(uint64_t seed, uint64_t stream, uint64_t first, int64_t count, uint32_t *buffer)
{
    const int64_t skip = (int64_t)(first % 4);
    philox(seed, stream, first / 4, (count + skip + 3) / 4, buffer);
    return buffer + skip;
}

/* The signs of entries first + i, i < count, packed from bit 0 of the word that is returned. */
INLINE const uint32_t *signs_at(uint64_t seed, uint64_t stream, uint64_t first, int64_t count, uint32_t *buffer)
{
    const int shift = (int)(first % 32);
    const int64_t words = (count + shift + 31) / 32;
    uint32_t *word = words_at(seed, stream, first / 32, words, buffer);
    if (shift) {
        for (int64_t i = 0; i + 1 < words; i++)
            word[i] = word[i] >> shift | word[i + 1] << (32 - shift);
        word[words - 1] >>= shift;
    }
    return word;
}
