/* Adam (Kingma and Ba 2015, algorithm 1) on a vector of coordinates, in the order of operations of torch's fused one. */

static void adam_rows(const subspaces_adam *a, double step_size, float correction)
{
    const float toward = (float)(1 - a->beta1), keep = (float)a->beta2, add = (float)(1 - a->beta2);
    const float step = (float)-step_size, eps = (float)a->eps, decay = (float)a->weight_decay;
    float *restrict w = a->w, *restrict mean = a->mean, *restrict square = a->square;
    const float *restrict gradient = a->gradient;
    for (int64_t i = 0; i < a->n; i++) {
        const float g = gradient[i] + decay * w[i];
        mean[i] += toward * (g - mean[i]);
        square[i] = keep * square[i] + add * g * g;
        w[i] += step * mean[i] / (__builtin_sqrtf(square[i]) / correction + eps);
    }
}
