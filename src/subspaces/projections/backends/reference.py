"""Plain torch: every map on every device as its class defines it, in chunks that bound temporary memory."""

from torch import Tensor

from subspaces.projections.backends import Backend, Map

CHUNK_ROWS = 1 << 22  # rows worked on at once


class Reference(Backend):
    """The definition that other backends are held against. It supports every map and dtype."""

    name = "reference"

    def supports(self, projection: Map, vector: Tensor) -> bool:
        return True

    def lift(self, projection: Map, w: Tensor, start: int, stop: int) -> Tensor:
        if stop - start <= CHUNK_ROWS:
            return projection._lift(w, start, stop)
        out = w.new_empty(w.shape[0], stop - start)
        for a in range(start, stop, CHUNK_ROWS):
            b = min(a + CHUNK_ROWS, stop)
            out[:, a - start : b - start] = projection._lift(w, a, b)
        return out

    def adjoint(self, projection: Map, g: Tensor, start: int) -> Tensor:
        if g.shape[1] <= CHUNK_ROWS:
            return projection._adjoint(g, start)
        out = g.new_zeros(g.shape[0], projection.d)
        for a in range(0, g.shape[1], CHUNK_ROWS):
            out += projection._adjoint(g[:, a : a + CHUNK_ROWS], start + a)
        return out


REFERENCE = Reference()
