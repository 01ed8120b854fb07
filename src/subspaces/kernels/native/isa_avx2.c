/* Vectors of eight floats: AVX2 and FMA. */
#include "internal.h"

#if defined(HAVE_X86)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define W 8
#define R 8
#define TABLE kernels_avx2
#define NAME "avx2"
#include "body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
typedef int nothing_for_this_processor;
#endif
