"""Adam on the coordinates behind ctypes: one native call moves w and rewrites the model as θ₀ + P w.

move = AdamMove(w, mean, square, steps)    # once per vector of coordinates
move.take(lr, betas, eps, weight_decay)    # before every step
move.step_(w, gradient, ready, threads)    # w moves; tensors[i] = origins[i] + rows of P w
"""

import ctypes

import torch
from jaxtyping import Float
from torch import Tensor

from subspaces.kernels.native_library import _library, _raise_for
from subspaces.kernels.native_map import NativeCall

_f64, _i64, _pointer = ctypes.c_double, ctypes.c_int64, ctypes.c_void_p
_FLOAT = torch.float32


class _Adam(ctypes.Structure):
    _fields_ = (
        ("n", _i64),
        ("w", _pointer),
        ("mean", _pointer),
        ("square", _pointer),
        ("steps", _pointer),
        ("gradient", _pointer),
        ("lr", _f64),
        ("beta1", _f64),
        ("beta2", _f64),
        ("eps", _f64),
        ("weight_decay", _f64),
    )


def movable(tensor: Tensor) -> bool:
    """Whether the kernel can read and write this tensor as it lies in memory. Cost: 0.2 µs."""
    return tensor.dtype is _FLOAT and tensor.is_cpu and tensor.layout is torch.strided and tensor.is_contiguous()


class AdamMove:
    """One vector of coordinates with the state of its Adam, packed once for the C kernel.

    Args:
        w: coordinates, n ≥ 1 float32 numbers in contiguous CPU memory.
        mean, square: averages of the gradient and of its square, as many numbers each.
        steps: one float32 number, the steps taken so far; the kernel counts it up.

    Raises:
        ValueError: for tensors that the kernel cannot use.
    """

    backend = "native"

    def __init__(self, w: Tensor, mean: Tensor, square: Tensor, steps: Tensor):
        n = w.numel()
        sizes = [t.numel() if movable(t) else -1 for t in (w, mean, square, steps)]
        if sizes != [n, n, n, 1] or n < 1:
            raise ValueError(
                "`w`, `mean`, `square` must be equally many and `steps` one contiguous float32 number on the CPU; "
                f"got {[(tuple(t.shape), t.dtype) for t in (w, mean, square, steps)]}."
            )
        self.state = (mean, square, steps)
        self._n, self._given = n, ()
        self._struct = _Adam(n=n)
        self._address = ctypes.addressof(self._struct)
        self._call = _library().subspaces_adam_step

    def fits(self, w: Tensor, gradient: Tensor) -> bool:
        """Whether the kernel can work on these as they lie in memory. Cost: 0.5 µs."""
        return movable(w) and movable(gradient) and gradient.numel() == self._n == w.numel()

    def take(self, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        """The rates of the next step; the averages are given when the optimiser was made, lr changes often."""
        struct, given = self._struct, (betas, eps, weight_decay)
        if given != self._given:
            (struct.beta1, struct.beta2), struct.eps, struct.weight_decay = betas, eps, weight_decay
            self._given = given
        struct.lr = lr

    def step_(
        self,
        w: Float[Tensor, "*n"],
        gradient: Float[Tensor, "*n"],
        ready: NativeCall | None,
        threads: int = 1,
    ) -> None:
        """One step on w and, with `ready`, tensors[i] ← origins[i] + rows of P w. Cost beside the kernels: 3 µs.

        Args:
            w, gradient: tensors that `fits` has said yes to.
            ready: a map with d = n, and tensors that have origins.
        """
        struct, (mean, square, steps) = self._struct, self.state
        struct.w, struct.gradient = w.data_ptr(), gradient.data_ptr()
        struct.mean, struct.square, struct.steps = mean.data_ptr(), square.data_ptr(), steps.data_ptr()
        if ready is None:
            status = self._call(self._address, None, None)
        else:
            native = ready.map
            native._struct.threads = threads
            status = self._call(self._address, native._address, ready.segments._address)
        if status:
            _raise_for(status)
