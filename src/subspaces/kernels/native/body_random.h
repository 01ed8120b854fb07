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

/* Blocks counter[0..L-1] -> 4 L words in order. Only the low halves of the lanes count between the rounds. */
INLINE void philox_lanes(vq counter, uint64_t seed, uint64_t stream, uint32_t *out)
{
    vq a = counter, b = counter >> 32, c = (vq){0} + stream, d = (vq){0} + (stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        const vq p = times(a, 0xD2511F53u), q = times(c, 0xCD9E8D57u);
        a = (q >> 32) ^ b ^ ((vq){0} + k0);
        b = q;
        c = (p >> 32) ^ d ^ ((vq){0} + k1);
        d = p;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    const vq front = (a & 0xffffffffu) | (b << 32), back = (c & 0xffffffffu) | (d << 32);
    const vq first = MERGE(front, back, FIRST_HALVES), second = MERGE(front, back, SECOND_HALVES);
    *(vu_mem *)out = (vu)first;
    *(vu_mem *)(out + W) = (vu)second;
}

static void philox(uint64_t seed, uint64_t stream, uint64_t first_block, int64_t blocks, uint32_t *out)
{
    const vq lane = {LANES64};
    int64_t i = 0;
    for (; i + L <= blocks; i += L)
        philox_lanes(lane + (first_block + (uint64_t)i), seed, stream, out + 4 * i);
    if (i < blocks) {
        uint32_t last[4 * L];
        philox_lanes(lane + (first_block + (uint64_t)i), seed, stream, last);
        memcpy(out + 4 * i, last, 16 * (size_t)(blocks - i));
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
