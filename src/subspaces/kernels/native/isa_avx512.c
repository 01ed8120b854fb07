/* Vectors of sixteen floats and 32 registers of them: a block of 256 fits the registers. */
#include "internal.h"

#if defined(HAVE_X86)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif

#define W 16
#define R 16
#define TABLE kernels_avx512
#define NAME "avx512"
#include "body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
typedef int nothing_for_this_processor;
#endif
