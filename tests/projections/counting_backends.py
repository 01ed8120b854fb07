"""Backends from outside for test_backends.py: the least that one has to give, and one with all that it may have."""

import torch

from subspaces.projections.backends import Backend


class Counting(Backend):
    """A fourth backend: the definition, counted."""

    name = "counting"

    def __init__(self):
        self.lifts = self.adjoints = 0

    def supports(self, projection, vector):
        return True

    def lift(self, projection, w, start, stop):
        self.lifts += 1
        return projection._lift(w, start, stop)

    def adjoint(self, projection, g, start):
        self.adjoints += 1
        return projection._adjoint(g, start)


class Preparing(Counting):
    """One that prepares calls, and has an Adam."""

    name = "preparing"

    def __init__(self):
        super().__init__()
        self.ready, self.steps = 0, 0

    def prepare(self, projection, vector, tensors, starts, origins=None):
        backend = self

        class Call:
            backend = "preparing"
            tensors = ()

            def write_(self, w):
                backend.ready += 1
                backend.write_(projection, tensors, starts, w, origins)

            def fold_(self, out):
                backend.ready += 1
                backend.fold_(projection, out, self.tensors, starts)

            def take(self, tensors, starts):
                self.tensors = tensors
                return True

            def release(self):
                self.tensors = ()

        call = Call()
        call.take(tensors, starts)
        return call

    def adam(self, w):
        backend = self

        class Move:
            backend = "preparing"

            def __init__(self, w, mean, square, steps):
                self.state = mean, square, steps

            def fits(self, w, gradient):
                return True

            def take(self, lr, betas, eps, weight_decay):
                self.rates = lr, betas, eps

            @torch.no_grad()
            def step_(self, w, gradient, ready, threads):
                (mean, square, steps), (lr, betas, eps) = self.state, self.rates
                backend.steps += 1
                steps += 1
                mean.lerp_(gradient, 1 - betas[0])
                square.lerp_(gradient.square(), 1 - betas[1])
                unbiased = (square / (1 - betas[1] ** steps)).sqrt() + eps
                w.sub_(lr * mean / (1 - betas[0] ** steps) / unbiased)
                if ready is not None:
                    ready.write_(w)

        return Move
