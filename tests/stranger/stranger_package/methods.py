"""A method of one's own: the span of the last d samples, seen from the first."""

import torch

from subspaces.learned.basis import LearnedBasis


def last_samples(samples, d):
    """Orthonormal directions of θ_{t−d+1} − θ_0 … θ_t − θ_0."""
    start = samples[0].vector
    ways = torch.stack([samples[len(samples) - 1 - k].vector - start for k in range(d)], dim=1)
    directions, sizes, _ = torch.linalg.svd(ways.double(), full_matrices=False)
    end = directions.T @ ways[:, 0].double()  # where training begins in it
    return LearnedBasis(directions.T.float().contiguous(), "last-samples", sizes, end=end)


def nothing(samples, d):
    """Not what a method has to give."""
    return d
