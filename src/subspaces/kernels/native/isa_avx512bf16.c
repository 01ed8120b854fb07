/* AVX-512 with the instruction that rounds to bfloat16. */
#include "internal.h"

#if defined(HAVE_X86)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif

#define W 16
#define R 16
#define HAVE_BF16 1
#define TABLE kernels_avx512bf16
#define NAME "avx512bf16"
#include "body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
typedef int nothing_for_this_processor;
#endif
