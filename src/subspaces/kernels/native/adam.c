/* A whole step of the coordinates: Adam on w and the model rewritten as origin + P w, in one call. */
#include <math.h>

#include "internal.h"

static int usable(const subspaces_adam *a)
{
    return a->n >= 1 && a->w && a->mean && a->square && a->steps && a->gradient;
}

int subspaces_adam_step(const subspaces_adam *a, const subspaces_projection *p, const subspaces_segments *segments)
{
    if (!usable(a) || (p && p->d != a->n))
        return SUBSPACES_BAD_ARGUMENT;
    const double steps = (double)(a->steps[0] += 1);
    const double correction1 = 1 - pow(a->beta1, steps), correction2 = 1 - pow(a->beta2, steps);
    current_kernels()->adam(a, a->lr / correction1, (float)sqrt(correction2));
    return p ? subspaces_write(p, segments, a->w, SUBSPACES_FROM_ORIGIN) : SUBSPACES_OK;
}
