/* The stable C interface of the CPU kernels: plain pointers and integers, no Python, no torch.
 *
 * Every projection P is the one of docs/projection-spec.md, D rows and d columns; `w` and `out` are d float32
 * numbers. A call works on a list of segments: pieces of the long vector, each with its own memory. Results do
 * not depend on the number of threads. Functions that return int give SUBSPACES_OK or one of the codes below.
 */
#ifndef SUBSPACES_H
#define SUBSPACES_H

#include <stdint.h>

#if defined(_WIN32)
#define SUBSPACES_API __declspec(dllexport)
#else
#define SUBSPACES_API __attribute__((visibility("default")))
#endif

#define SUBSPACES_ABI 2 /* 2: the lift's order of sums is that of the specification, section 0 */

enum { SUBSPACES_OK = 0, SUBSPACES_NO_MEMORY = -1, SUBSPACES_BAD_ARGUMENT = -2 };
enum { SUBSPACES_F32 = 0, SUBSPACES_BF16 = 1, SUBSPACES_DTYPES = 2 };
enum { SUBSPACES_ADD = 0, SUBSPACES_SET = 1, SUBSPACES_FROM_ORIGIN = 2 };

/* n segments: segment i is rows [start[i], start[i] + length[i]) and lies in memory at data[i]. */
typedef struct {
    int64_t n;
    void *const *data;
    const int64_t *start;
    const int64_t *length;
    const int32_t *dtype;
    const void *const *origin;   /* read when a write is SUBSPACES_FROM_ORIGIN, else may be NULL */
    const int32_t *origin_dtype;
} subspaces_segments;

SUBSPACES_API int subspaces_abi(void);
SUBSPACES_API const char *subspaces_isa(void);
SUBSPACES_API int subspaces_use_isa(const char *name); /* for tests: not while another call runs */

/* Integers of the specification, section 1. */
SUBSPACES_API int subspaces_words(uint64_t seed, uint64_t stream, uint64_t start, int64_t count, uint32_t *out);
SUBSPACES_API int subspaces_signs(uint64_t seed, uint64_t stream, uint64_t start, int64_t count, int8_t *out);
SUBSPACES_API int subspaces_slots(uint64_t seed, uint64_t stream, uint64_t start, int64_t count, int64_t n,
                                  int64_t *out);
SUBSPACES_API int subspaces_permutation(uint64_t seed, uint64_t stream, uint64_t start, int64_t n, int32_t *out);

/* x <- scale * H_m x for each of `count` vectors of length m (a power of two), one after another. */
SUBSPACES_API int subspaces_hadamard_transform(float *x, int64_t count, int64_t m, float scale, int threads);

/* A projection, described by value. Fields that a kind does not use are ignored. */
enum { SUBSPACES_HADAMARD = 0, SUBSPACES_DENSE = 1, SUBSPACES_SPARSE = 2, SUBSPACES_FASTFOOD = 3, SUBSPACES_KINDS = 4 };

typedef struct {
    int32_t kind;
    int32_t threads;
    int64_t d, D;
    uint64_t seed;
    int64_t block;              /* hadamard: B (1 is onehot); fastfood: m */
    const int32_t *permutation; /* fastfood: K m numbers, pi of each block */
    const float *gain;          /* fastfood: K m numbers G, or NULL for the signs of stream SIGNS_G */
    double scale;               /* fastfood: s, by which the result is divided */
} subspaces_projection;

/* segment <- segment + P w, P w or origin + P w (mode), every rows of P that the segments name. */
SUBSPACES_API int subspaces_write(const subspaces_projection *p, const subspaces_segments *segments, const float *w,
                                  int mode);
/* out <- out + sum over segments of P[rows]^T segment. */
SUBSPACES_API int subspaces_fold(const subspaces_projection *p, const subspaces_segments *segments, float *out);

/* The state of Adam on n coordinates; `steps` points to one number, the steps taken so far. */
typedef struct {
    int64_t n;
    float *w, *mean, *square, *steps;
    const float *gradient;
    double lr, beta1, beta2, eps, weight_decay;
} subspaces_adam;

/* One step of Adam on w; then, unless p is NULL, segment <- origin + P w for every segment. */
SUBSPACES_API int subspaces_adam_step(const subspaces_adam *adam, const subspaces_projection *p,
                                      const subspaces_segments *segments);

#endif
