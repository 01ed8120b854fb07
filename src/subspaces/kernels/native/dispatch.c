/* Which instruction set runs: the widest that this processor has, or the one asked for. */
#include <stdatomic.h>
#include <stdlib.h>

#include "internal.h"

static _Atomic(const kernels *) chosen;

static int supported(const kernels *table)
{
#if defined(HAVE_X86)
    __builtin_cpu_init();
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (table == &kernels_avx512bf16)
        return avx512 && __builtin_cpu_supports("avx512bf16");
    if (table == &kernels_avx512)
        return avx512;
    if (table == &kernels_avx2)
        return avx2;
#endif
    return table == &kernels_generic;
}

/* The best table, or the named one if this processor can run it; NULL for an unknown or impossible name. */
static const kernels *find(const char *name)
{
    static const kernels *const tables[] = {
#if defined(HAVE_X86)
        &kernels_avx512bf16,
        &kernels_avx512,
        &kernels_avx2,
#endif
        &kernels_generic,
    };
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        if (supported(tables[i]) && (!name || !strcmp(name, tables[i]->name) ||
                                     (tables[i] == &kernels_generic && !strcmp(name, "generic"))))
            return tables[i];
    return NULL;
}

const kernels *current_kernels(void)
{
    const kernels *table = atomic_load_explicit(&chosen, memory_order_acquire);
    if (!table) {
        const char *name = getenv("SUBSPACES_NATIVE_ISA");
        table = find(name && *name ? name : NULL);
        if (!table)
            table = find(NULL);
        atomic_store_explicit(&chosen, table, memory_order_release);
    }
    return table;
}

int subspaces_abi(void) { return SUBSPACES_ABI; }

const char *subspaces_isa(void) { return current_kernels()->name; }

int subspaces_use_isa(const char *name)
{
    const kernels *table = find(name);
    if (!table)
        return SUBSPACES_BAD_ARGUMENT;
    atomic_store_explicit(&chosen, table, memory_order_release);
    return SUBSPACES_OK;
}
