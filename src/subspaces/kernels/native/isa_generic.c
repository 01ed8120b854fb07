/* Vectors of four floats: what every 64-bit processor has (SSE2, NEON, ...). */
#include "internal.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define W 4
#define R 8
#define TABLE kernels_generic
#if defined(__aarch64__)
#define NAME "neon"
#else
#define NAME "generic"
#endif
#include "body.h"
