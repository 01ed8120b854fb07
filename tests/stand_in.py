"""A stand-in accelerator: tensors on `standin:0` and `standin:1` have numbers in CPU memory and behave like CUDA's.

    import stand_in                      # before the first backward pass of the process
    x = torch.randn(3, device="standin")
    with stand_in.watched() as log:      # what the block did
        ...
    log.waits, log.copies, log.calls     # of the host for the device, between the two, operations on the device
    log.numbers                          # how many numbers each copy had

    graph = stand_in.Graph()
    with graph.captured():
        ...
    graph.replay()               # the operations of the block again, on the same memory, without its Python

It refuses what CUDA refuses: operations on tensors of two devices, except for a number on the CPU among the operands
and for copies. Autograd runs the backward pass of its tensors on a thread of their own, as for CUDA. It has no views of
changed dtype, no generator and no streams; a parameter can be moved in place from one of the two to the other, but not
between them and the CPU. Backward passes know the first of the two only. Torch's support for backends in Python must
be there (torch 2.9, say).
"""

import contextlib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils import backend_registration

from subspaces.projections import operators

NAME = "standin"
DEVICES = 2
WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::unique_dim", "aten::_unique2"}
OURS = {"subspaces::lift": operators.lift, "subspaces::adjoint": operators.adjoint}  # made of operations on the device
_TAKE_CPU = {"aten::index", "aten::index_put_", "aten::_index_put_impl_"}  # indices may lie on the CPU


@dataclass
class Log:
    """What was seen."""

    waits: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)


_LOGS: list[Log] = []


class Graph:
    """What a block did on the device, to be done again as a CUDA graph does it.

    Numbers that Python gave stay what they were, and so does what the CPU computed; waits are refused while a block is
    captured, as CUDA refuses them.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, tuple, dict, Any]] = []

    @contextlib.contextmanager
    def captured(self) -> Iterator[None]:
        """Keep the operations of a block, of all threads."""
        _CAPTURING.append(self)
        try:
            yield
        finally:
            _CAPTURING.remove(self)

    def replay(self) -> None:
        """Do them again; results lie where they lay."""
        with torch.no_grad():
            for func, args, kwargs, out in self.calls:
                made = func(*args, **kwargs)
                for old, new in zip(pytree.tree_leaves(out), pytree.tree_leaves(made), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


_CAPTURING: list[Graph] = []


@contextlib.contextmanager
def watched() -> Iterator[Log]:
    """The log of a block, of all threads."""
    log = Log()
    _LOGS.append(log)
    try:
        yield log
    finally:
        _LOGS.remove(log)


def _note(kind: str, what: str) -> None:
    """Into all open logs; a wait with the line of ours that asked for it."""
    if kind == "waits" and _LOGS:
        lines = [f"{f.filename}:{f.lineno}" for f in traceback.extract_stack() if "subspaces" in f.filename]
        what = f"{what} in {lines[-1] if lines else 'the test'}"
    if kind == "waits" and _CAPTURING:
        raise RuntimeError(f"operation not permitted when stream is capturing: {what}")
    for log in _LOGS:
        getattr(log, kind).append(what)


class StandIn(torch.Tensor):
    """A tensor on the device; `held` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, real: torch.Tensor, index: int):
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            *(cls, real.shape, real.stride(), real.storage_offset()),
            dtype=real.dtype,
            device=torch.device(NAME, index),
        )
        made.held = real
        return made

    def __repr__(self, *_: Any, **__: Any) -> str:
        return f"StandIn({self.held!r}, device={self.device})"

    @property
    def data(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As of every tensor; set, the numbers go along, also to the other device."""
        return torch.Tensor.data.__get__(self)  # pyright: ignore[reportAttributeAccessIssue]

    @data.setter
    def data(self, new: torch.Tensor) -> None:
        if not isinstance(new, StandIn):
            raise RuntimeError("a tensor of the stand-in can be given the data of another one of the stand-in only")
        torch.Tensor.data.__set__(self, new)  # pyright: ignore[reportAttributeAccessIssue]
        self.held = new.held

    def tolist(self) -> Any:
        """As of every tensor; torch refuses subclasses."""
        return self.cpu().tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple, kwargs: dict) -> Any:
    """One operation: checked, noted, done on the numbers."""
    name = func._schema.name
    if name in OURS:
        return OURS[name](*args, **kwargs)
    leaves = pytree.tree_leaves((args, kwargs))
    ours = [x for x in leaves if isinstance(x, StandIn)]
    asked = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    if name in ("aten::_to_copy", "aten::copy_"):
        _note_copy(name, ours, leaves, asked)
    elif ours:
        _refuse_mixed(func, args, kwargs, leaves)
    adds = name.startswith("aten::index_put") and (args[3] if len(args) > 3 else kwargs.get("accumulate", False))
    _note("waits" if name in WAITS else "calls", f"{name} accumulate" if adds else name)
    index = ours[0].device.index if ours else 0
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu"), **({"pin_memory": False} if "pin_memory" in kwargs else {})}
        index = (asked.index or 0) if asked.type == NAME else None
    known = {id(x.held): x for x in ours}
    held_args, held_kwargs = pytree.tree_map(lambda x: x.held if isinstance(x, StandIn) else x, (args, kwargs))
    out = func(*held_args, **held_kwargs)
    for graph in _CAPTURING if index is not None else ():
        graph.calls.append((func, held_args, held_kwargs, out))
    if name == "aten::copy_":
        return args[0]

    def wrap(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or index is None:
            return x
        return known[id(x)] if id(x) in known else StandIn(x, index)

    return pytree.tree_map(wrap, out)


def _note_copy(name: str, ours: list[StandIn], leaves: list[Any], asked: torch.device | None) -> None:
    """Copies between host and device: the host waits for them, since its memory is pageable here."""
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    if name == "aten::copy_":
        kinds = [isinstance(x, StandIn) for x in tensors]
    else:
        kinds = [asked is not None and asked.type == NAME, bool(ours)] if asked is not None else [True, True]
    if kinds in ([False, True], [True, False]):
        _note("copies", "device to host" if kinds[1] else "host to device")
        for log in _LOGS:
            log.numbers.append(tensors[-1].numel())
        _note("waits", name)


def _refuse_mixed(func: Any, args: tuple, kwargs: dict, leaves: list[Any]) -> None:
    """One device for all; a number on the CPU may be read, indices may lie there."""
    written: set[int] = set()
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            written |= {id(x) for x in pytree.tree_leaves(value)}
    places = set()
    for x in leaves:
        if isinstance(x, torch.Tensor):
            free = not isinstance(x, StandIn) and x.dim() == 0 and id(x) not in written
            if not free and (isinstance(x, StandIn) or func._schema.name not in _TAKE_CPU):
                places.add(str(x.device))
    if len(places) > 1:
        found = " and ".join(sorted(places))
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {found}! ({func._schema.name})")


class _Module:
    """`torch.standin`."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def device_count(self) -> int:
        return DEVICES

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class _Guard(torch._C._acc.DeviceGuard):  # type: ignore[name-defined]
    def type_(self) -> Any:
        return torch._C._autograd.DeviceType.PrivateUse1  # pyright: ignore[reportAttributeAccessIssue]

    def device_count_(self) -> int:
        return DEVICES


def _made(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Operations without a tensor of ours: factories."""
    return _run(func, args, kwargs)


backend_registration._setup_privateuseone_for_python_backend(NAME, _Module(), None, _Guard())
_LIBRARY = torch.library.Library("_", "IMPL")
_LIBRARY.fallback(_made, "PrivateUse1")
