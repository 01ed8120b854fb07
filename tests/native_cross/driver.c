/* Calls everything of the C interface on fixed inputs and writes the results to a file, so that builds for different
 * processors can be compared: `driver FILE` writes the numbers to FILE and one line for each array to stdout,
 *     NAME TYPE COUNT
 * in the order of the file. Inputs are integers and fractions of powers of two, exact everywhere. Memory is of the
 * exact size, so that a run under a memory checker sees reads beyond it. Exit status 1 if threads change a bit. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "subspaces.h"

enum { INPUT = 1000 }; /* a stream that no projection uses */

static FILE *results;
static int failures;

static void must(int status, const char *what)
{
    if (status != SUBSPACES_OK) {
        fprintf(stderr, "%s: status %d\n", what, status);
        exit(2);
    }
}

static void *room(int64_t bytes)
{
    void *memory = malloc(bytes > 0 ? (size_t)bytes : 1);
    if (!memory)
        exit(3);
    return memory;
}

static void give(const char *name, const char *type, const void *data, int64_t count, size_t size)
{
    printf("%s %s %lld\n", name, type, (long long)count);
    fwrite(data, size, (size_t)count, results);
}

static uint32_t *some_words(uint64_t seed, int64_t n)
{
    uint32_t *words = room(4 * n);
    must(subspaces_words(seed, INPUT, 0, n, words), "words");
    return words;
}

/* n multiples of 2^-23 in [-1, 1) */
static float *some_floats(uint64_t seed, int64_t n)
{
    uint32_t *words = some_words(seed, n);
    float *x = room(4 * n);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)((int32_t)words[i] >> 8) / 8388608.0f;
    free(words);
    return x;
}

/* n bfloat16 numbers in [-1, 1), the rest of their bits cut off; or float32 ones */
static void *some_numbers(uint64_t seed, int64_t n, int dtype)
{
    float *x = some_floats(seed, n);
    if (dtype == SUBSPACES_F32)
        return x;
    uint16_t *h = room(2 * n);
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        h[i] = (uint16_t)(bits >> 16);
    }
    free(x);
    return h;
}

/* ---- section 1 of the specification */

static void integers(void)
{
    static const struct {
        uint64_t seed, stream, start;
        int64_t count;
    } calls[] = {{0, 0, 0, 70},
                 {~0ull, 3, 5, 333},
                 {1ull << 40 | 7, 1, (1ull << 35) + 3, 1000},
                 {9, 1ull << 33, ~0ull >> 5, 65}};
    for (size_t c = 0; c < sizeof calls / sizeof *calls; c++) {
        const int64_t n = calls[c].count;
        uint32_t *words = room(4 * n);
        int8_t *signs = room(n);
        int64_t *slots = room(8 * n);
        int32_t *order = room(4 * n);
        must(subspaces_words(calls[c].seed, calls[c].stream, calls[c].start, n, words), "words");
        must(subspaces_signs(calls[c].seed, calls[c].stream, calls[c].start, n, signs), "signs");
        must(subspaces_slots(calls[c].seed, calls[c].stream, calls[c].start, n, 1000003, slots), "slots");
        must(subspaces_permutation(calls[c].seed, calls[c].stream, calls[c].start / 2, n, order), "permutation");
        give("words", "u4", words, n, 4);
        give("signs", "i1", signs, n, 1);
        give("slots", "i8", slots, n, 8);
        give("permutation", "i4", order, n, 4);
        free(words), free(signs), free(slots), free(order);
    }
    int32_t *order = room(4 * 70001);
    must(subspaces_permutation(11, 3, 70001, 70001, order), "permutation");
    give("permutation", "i4", order, 70001, 4);
    free(order);
}

static void transforms(void)
{
    for (int64_t m = 1; m <= 1 << 21; m *= m < 8192 ? 2 : 16) {
        const int64_t count = m < 64 ? 7 : 1, threads = m > 1 << 20 ? 3 : 1;
        float *x = some_floats((uint64_t)m, m * count);
        must(subspaces_hadamard_transform(x, count, m, 0.375f, (int)threads), "transform");
        char name[64];
        snprintf(name, sizeof name, "transform/m=%lld", (long long)m);
        give(name, "f4", x, m * count, 4);
        free(x);
    }
}

/* ---- projections */

typedef struct {
    const char *kind;
    subspaces_projection p;
    int64_t rows; /* the first ones, which are worked on */
} projection;

#define PIECES 4

typedef struct {
    void *data[PIECES];
    const void *origin[PIECES];
    int64_t start[PIECES], length[PIECES];
    int32_t dtype[PIECES], origin_dtype[PIECES];
    subspaces_segments segments;
} pieces;

static void add_piece(pieces *to, int64_t start, int64_t stop, int dtype, int origin_dtype, uint64_t seed)
{
    const int64_t i = to->segments.n++;
    to->start[i] = start, to->length[i] = stop - start;
    to->dtype[i] = dtype, to->origin_dtype[i] = origin_dtype;
    to->data[i] = some_numbers(seed + (uint64_t)i, stop - start, dtype);
    to->origin[i] = some_numbers(seed + 50 + (uint64_t)i, stop - start, origin_dtype);
}

/* All rows in one piece, or (mixed) pieces of both dtypes with a gap, that begin and end within tiles and blocks. */
static pieces *make_pieces(int64_t n, int mixed, int dtype)
{
    pieces *to = room(sizeof *to);
    memset(to, 0, sizeof *to);
    to->segments = (subspaces_segments){0, to->data, to->start, to->length, to->dtype, to->origin, to->origin_dtype};
    if (!mixed) {
        add_piece(to, 0, n, dtype, dtype, 100);
        return to;
    }
    const int64_t a = n / 7, b = a + n / 3, c = b + (n > 9 ? 3 : 0), e = c + (n - c) / 2;
    add_piece(to, a, b, SUBSPACES_F32, SUBSPACES_BF16, 200);
    add_piece(to, b, c, SUBSPACES_BF16, SUBSPACES_F32, 200);
    add_piece(to, c, e, SUBSPACES_BF16, SUBSPACES_BF16, 200);
    add_piece(to, e + (e < n), n, SUBSPACES_F32, SUBSPACES_F32, 200);
    return to;
}

static void free_pieces(pieces *from)
{
    for (int64_t i = 0; i < from->segments.n; i++)
        free(from->data[i]), free((void *)from->origin[i]);
    free(from);
}

/* One fold, then one write in `mode`. The results of one thread are given out, those of several compared with them. */
static void run(const projection *what, int mixed, int dtype, int mode, int threads)
{
    subspaces_projection p = what->p;
    float *w = some_floats(77, p.d), *out[2];
    pieces *theta[2];
    for (int several = 0; several <= (threads > 1); several++) {
        p.threads = several ? threads : 1;
        theta[several] = make_pieces(what->rows, mixed, dtype);
        out[several] = some_floats(78, p.d);
        must(subspaces_fold(&p, &theta[several]->segments, out[several]), "fold");
        must(subspaces_write(&p, &theta[several]->segments, w, mode), "write");
    }
    char name[160];
    const int length = snprintf(name, sizeof name, "%s/block=%lld/d=%lld/D=%lld/%s/mode=%d", what->kind,
                                (long long)p.block, (long long)p.d, (long long)p.D,
                                mixed ? "mixed" : dtype == SUBSPACES_F32 ? "f32" : "bf16", mode);
    int same = threads == 1 || !memcmp(out[0], out[1], 4 * (size_t)p.d);
    snprintf(name + length, sizeof name - (size_t)length, "/fold");
    give(name, "f4", out[0], p.d, 4);
    snprintf(name + length, sizeof name - (size_t)length, "/write");
    for (int64_t i = 0; i < theta[0]->segments.n; i++) {
        const int half = theta[0]->dtype[i] == SUBSPACES_BF16;
        give(name, half ? "b2" : "f4", theta[0]->data[i], theta[0]->length[i], half ? 2 : 4);
        if (threads > 1)
            same &= !memcmp(theta[0]->data[i], theta[1]->data[i], (half ? 2 : 4) * (size_t)theta[0]->length[i]);
    }
    if (!same) {
        fprintf(stderr, "%s: %d threads give other bits than one\n", name, threads);
        failures++;
    }
    for (int several = 0; several <= (threads > 1); several++)
        free(out[several]), free_pieces(theta[several]);
    free(w);
}

static void run_all(const char *kind, subspaces_projection p)
{
    const int wide = p.kind == SUBSPACES_DENSE && p.d > 8000; /* some rows of several panels of columns */
    const projection what = {kind, p, wide ? 300 : p.D};
    const int threads = p.D > 30000 ? 3 : 1; /* where it is less, one thread does all the work anyway */
    run(&what, 1, 0, SUBSPACES_FROM_ORIGIN, threads);
    if (p.D > 500000)
        return;
    run(&what, 0, SUBSPACES_F32, SUBSPACES_ADD, 1);
    run(&what, 0, SUBSPACES_BF16, SUBSPACES_FROM_ORIGIN, 1);
    run(&what, 1, 0, SUBSPACES_SET, 1);
}

static void rotations(void)
{
    static const int64_t sizes[][2] = {{1, 1}, {13, 70}, {37, 5000}, {4100, 5000}, {750, 30000}, {6000, 1100000}};
    static const int64_t blocks[] = {1, 2, 16, 32, 64, 256, 1024, 8192};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (size_t b = 0; b < sizeof blocks / sizeof *blocks; b++)
            if (sizes[s][1] < 500000 || blocks[b] == 256)
                run_all("hadamard", (subspaces_projection){.kind = SUBSPACES_HADAMARD,
                                                           .d = sizes[s][0],
                                                           .D = sizes[s][1],
                                                           .seed = 5 + s,
                                                           .block = blocks[b]});
}

static void made_on_the_fly(void)
{
    static const int64_t sizes[][2] = {{1, 1}, {5, 70}, {33, 1000}, {750, 3001}, {900, 36000}, {8200, 8201}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        subspaces_projection p = {.kind = SUBSPACES_DENSE, .d = sizes[s][0], .D = sizes[s][1], .seed = ~0ull - s};
        run_all("dense", p);
        p.kind = SUBSPACES_SPARSE;
        p.D *= 7;
        run_all("sparse", p);
    }
}

static void fastfoods(void)
{
    static const int64_t sizes[][3] = {{1, 1, 1}, {5, 70, 8}, {37, 5000, 64}, {100, 5000, 8192}, {1500, 300000, 2048}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const int64_t m = sizes[s][2], K = (sizes[s][1] + m - 1) / m;
        int32_t *order = room(4 * K * m);
        float *gain = some_floats(300 + s, K * m);
        for (int64_t k = 0; k < K; k++)
            must(subspaces_permutation(s, 3, (uint64_t)(k * m), m, order + k * m), "permutation");
        subspaces_projection p = {.kind = SUBSPACES_FASTFOOD, .d = sizes[s][0], .D = sizes[s][1], .seed = s};
        p.block = m, p.permutation = order, p.gain = gain, p.scale = 3.5;
        run_all("fastfood", p);
        p.gain = NULL;
        run_all("fastfood-signs", p);
        free(order), free(gain);
    }
}

/* Any 32 bits as float32 origins, NaN, infinite and subnormal ones too, rounded to bfloat16 by a write of zeros. */
static void rounding(void)
{
    const int64_t n = 200000;
    uint32_t *origin = some_words(400, n);
    for (int64_t i = 0; i < n / 4; i++) /* close to the middle between two bfloat16 numbers, and NaNs */
        origin[i] = i % 2 ? (origin[i] & 0xffff0000u) + 0x7fff + i % 3 : (origin[i] | 0x7f800000u);
    uint16_t *to = room(2 * n);
    void *data = to;
    const void *from = origin;
    const int64_t start = 0;
    const int32_t half = SUBSPACES_BF16, single = SUBSPACES_F32;
    const subspaces_segments segments = {1, &data, &start, &n, &half, &from, &single};
    const subspaces_projection p = {.kind = SUBSPACES_HADAMARD, .threads = 1, .d = 1000, .D = n, .block = 256};
    float *w = calloc(1000, 4);
    must(subspaces_write(&p, &segments, w, SUBSPACES_FROM_ORIGIN), "write");
    give("rounded", "u2", to, n, 2);
    give("before", "u4", origin, n, 4);
    free(w), free(to), free(origin);
}

int main(int count, char **arguments)
{
    results = count == 2 ? fopen(arguments[1], "wb") : NULL;
    if (!results)
        return 2;
    printf("isa %s 0\n", subspaces_isa());
    integers();
    transforms();
    rotations();
    made_on_the_fly();
    fastfoods();
    rounding();
    fclose(results);
    return failures > 0;
}
