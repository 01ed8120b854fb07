/* Reads and writes at given places, one by one: the gather and scatter instructions of AVX2 and AVX-512 are slower
 * than single loads from the cache, so these loops are compiled for no instruction set that has them. */
#include "internal.h"

void take(float *restrict to, const float *restrict from, const int32_t *restrict at, const float *restrict gain,
          float factor, int64_t n)
{
    if (gain)
        for (int64_t i = 0; i < n; i++)
            to[i] = from[at[i]] * (gain[i] * factor);
    else
        for (int64_t i = 0; i < n; i++)
            to[i] = from[at[i]] * factor;
}

void put(float *restrict to, const float *restrict from, const int32_t *restrict at, const float *restrict gain,
         float factor, int64_t n)
{
    if (gain)
        for (int64_t i = 0; i < n; i++)
            to[at[i]] = from[i] * (gain[i] * factor);
    else
        for (int64_t i = 0; i < n; i++)
            to[at[i]] = from[i] * factor;
}

void add_at(float *restrict to, const float *restrict from, const int32_t *restrict at, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[at[i]] += from[i];
}
