"""Where samples of a trajectory lie: what any place gives (`Store`), and the one in memory."""

import math
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Store(Protocol):
    """A list of raw vectors with their buffers; the first is of `wide` dtype, the others of `dtype`."""

    def __len__(self) -> int: ...
    def append(self, vector: Tensor, buffers: bytes, step: int) -> None: ...
    def read(self, index: int, start: int, stop: int) -> Tensor: ...
    def buffers(self, index: int) -> bytes: ...
    def step(self, index: int) -> int: ...
    def truncate(self, count: int) -> None: ...


@dataclass
class MemoryStore:
    """Samples held in memory: t·D numbers."""

    vectors: list[Tensor] = field(default_factory=list)
    notes: list[tuple[bytes, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.vectors)

    def append(self, vector: Tensor, buffers: bytes, step: int) -> None:
        self.vectors.append(vector.clone())
        self.notes.append((buffers, step))

    def read(self, index: int, start: int, stop: int) -> Tensor:
        return self.vectors[index][start:stop]

    def buffers(self, index: int) -> bytes:
        return self.notes[index][0]

    def step(self, index: int) -> int:
        return self.notes[index][1]

    def truncate(self, count: int) -> None:
        del self.vectors[count:], self.notes[count:]


def pack(tensors: list[Tensor]) -> bytes:
    """Raw bytes of tensors, one after another."""
    return b"".join(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for t in tensors)


def unpack(raw: bytes, entries: list[tuple[str, list[int], str]]) -> dict[str, Tensor]:
    """The inverse of `pack`: tensors by name from (name, shape, dtype) entries."""
    found, offset = {}, 0
    for name, shape, dtype in entries:
        kind = getattr(torch, dtype)
        count = math.prod(shape) * kind.itemsize
        piece = torch.frombuffer(bytearray(raw[offset : offset + count]), dtype=torch.uint8)
        found[name] = piece.view(kind).view(shape)
        offset += count
    return found
