/* The integers of the specification as arrays. */
#include <stdlib.h>

#include "internal.h"

#define BATCH 1024 /* words at a time */

int subspaces_words(uint64_t seed, uint64_t stream, uint64_t start, int64_t count, uint32_t *out)
{
    const kernels *k = current_kernels();
    uint32_t block[4];
    int64_t i = 0;
    for (; i < count && (start + (uint64_t)i) % 4; i++) { /* up to a whole block */
        k->philox(seed, stream, (start + (uint64_t)i) / 4, 1, block);
        out[i] = block[(start + (uint64_t)i) % 4];
    }
    const int64_t blocks = (count - i) / 4;
    if (blocks > 0)
        k->philox(seed, stream, (start + (uint64_t)i) / 4, blocks, out + i);
    i += 4 * larger(0, blocks);
    if (i < count) {
        k->philox(seed, stream, (start + (uint64_t)i) / 4, 1, block);
        memcpy(out + i, block, 4 * (size_t)(count - i));
    }
    return SUBSPACES_OK;
}

int subspaces_signs(uint64_t seed, uint64_t stream, uint64_t start, int64_t count, int8_t *out)
{
    uint32_t words[BATCH];
    for (int64_t i = 0; i < count;) {
        const uint64_t entry = start + (uint64_t)i;
        const int64_t skip = (int64_t)(entry % 32), n = smaller(32 * BATCH - skip, count - i);
        subspaces_words(seed, stream, entry / 32, (n + skip + 31) / 32, words);
        for (int64_t t = 0; t < n; t++)
            out[i + t] = (int8_t)(1 - 2 * (int)(words[(t + skip) / 32] >> ((t + skip) % 32) & 1));
        i += n;
    }
    return SUBSPACES_OK;
}

int subspaces_slots(uint64_t seed, uint64_t stream, uint64_t start, int64_t count, int64_t n, int64_t *out)
{
    uint32_t words[BATCH];
    if (n < 1 || n > INT32_MAX)
        return SUBSPACES_BAD_ARGUMENT;
    for (int64_t i = 0; i < count; i += BATCH) {
        const int64_t some = smaller(BATCH, count - i);
        subspaces_words(seed, stream, start + (uint64_t)i, some, words);
        for (int64_t t = 0; t < some; t++)
            out[i + t] = (int64_t)((uint64_t)words[t] * (uint64_t)n >> 32);
    }
    return SUBSPACES_OK;
}

typedef struct {
    uint64_t key;
    uint32_t index;
} keyed;

static void make_keys(uint64_t seed, uint64_t stream, uint64_t start, int64_t n, keyed *to)
{
    uint32_t words[BATCH];
    for (int64_t i = 0; i < n; i += BATCH / 2) {
        const int64_t some = smaller(BATCH / 2, n - i);
        subspaces_words(seed, stream, 2 * (start + (uint64_t)i), 2 * some, words);
        for (int64_t t = 0; t < some; t++)
            to[i + t] = (keyed){(uint64_t)words[2 * t] << 32 | words[2 * t + 1], (uint32_t)(i + t)};
    }
}

static int by_key(const void *a, const void *b)
{
    const keyed *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index; /* stable */
}

/* Distribute by the top bits of the keys, which are uniform, then sort the short buckets. */
int subspaces_permutation(uint64_t seed, uint64_t stream, uint64_t start, int64_t n, int32_t *out)
{
    if (n < 1 || n > INT32_MAX)
        return SUBSPACES_BAD_ARGUMENT;
    int bits = 1;
    while (bits < 20 && ((int64_t)16 << bits) < n)
        bits++;
    const size_t buckets = (size_t)1 << bits;
    keyed *keys = malloc(sizeof(keyed) * (size_t)n), *sorted = malloc(sizeof(keyed) * (size_t)n);
    int64_t *place = calloc(buckets + 1, sizeof(int64_t));
    if (keys && sorted && place) {
        make_keys(seed, stream, start, n, keys);
        for (int64_t i = 0; i < n; i++)
            place[(keys[i].key >> (64 - bits)) + 1]++;
        for (size_t b = 0; b < buckets; b++)
            place[b + 1] += place[b];
        for (int64_t i = 0; i < n; i++)
            sorted[place[keys[i].key >> (64 - bits)]++] = keys[i];
        for (size_t b = 0; b < buckets; b++) { /* place[b] is now the end of bucket b */
            const int64_t begin = b ? place[b - 1] : 0;
            qsort(sorted + begin, (size_t)(place[b] - begin), sizeof(keyed), by_key);
        }
        for (int64_t i = 0; i < n; i++)
            out[i] = (int32_t)sorted[i].index;
    }
    const int status = keys && sorted && place ? SUBSPACES_OK : SUBSPACES_NO_MEMORY;
    free(keys);
    free(sorted);
    free(place);
    return status;
}
