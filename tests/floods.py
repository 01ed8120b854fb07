"""Files that would fill the memory: JSON that is small in bytes and large in objects, packed layouts, sizes claimed."""

import base64
import ctypes
import hashlib
import json
import resource
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mutations import Mutant, closed, opened

ROOM = 128_000_000
"""Bytes that any file may take beside twice its own: `docs/file-format.md`."""


def _many(item: str) -> Callable[[int], str]:
    return lambda n: "[" + f"{item}," * n + "0]"


def _chains(n: int) -> str:
    """Objects in objects, 90 deep, each with a key of its own."""
    chains = ("".join(f'{{"{90 * i + j:x}":' for j in range(90)) + "0" + "}" * 90 for i in range(n // 90))
    return "[" + ",".join(chains) + "]"


JSON: dict[str, tuple[int, Callable[[int], str]]] = {
    "empty lists": (2_000_000, _many("[]")),
    "empty objects": (2_000_000, _many("{}")),
    "lists of one": (700_000, _many("[0]")),
    "objects of one": (360_000, _many('{"a":0}')),
    "objects in objects": (400_000, _chains),
    "lists in lists": (800_000, lambda n: "[" + ("[" * 90 + "]" * 90 + ",") * (n // 90) + "0]"),
    "other keys": (450_000, lambda n: "{" + ",".join(f'"{i:x}":0' for i in range(n)) + "}"),
    "one key": (500_000, lambda n: "{" + ",".join('"a":0' for _ in range(n)) + "}"),
    "short texts": (1_400_000, _many('"ab"')),
    "numbers": (1_600_000, _many("1000")),
    "a wide text": (7_000_000, lambda n: '["' + "a" * n + '\\ud83d\\ude00"]'),
    "deep": (1_000_000, lambda n: "[" * n + "]" * n),
}
"""Name → how many make JSON that takes about as much as a small file may take, or more; and that JSON."""


def floods(content: bytes, names: Iterator[str] | list[str] | None = None, share: float = 1.0) -> Iterator[Mutant]:
    """A good file with each flood in each place of its header. `share`: of the memory that a small file may take."""
    places = _TRAJECTORY if content.startswith(b"SUBTRAJ2") else _CONTAINER
    for name in JSON if names is None else names:
        count, make = JSON[name]
        flood = make(int(count * share))
        for place, put in places.items():
            yield Mutant(put(content, flood), f"{name} in {place}", True)


def _in_table(content: bytes, flood: str) -> bytes:
    start = 8 + int.from_bytes(content[:8], "little")
    text = content[8:start].rstrip()[:-1] + b',"x":' + flood.encode() + b"}"
    return struct.pack("<Q", len(text)) + text + content[start:]


def _in_header(content: bytes, flood: str) -> bytes:
    """In our own header, with a hash that fits if it can be made: notes may be anything."""
    table, header, data = opened(content)
    notes = dict(header)
    try:
        notes["extra"] = {"notes": json.loads(flood)}
        return closed(table, notes, data, True)
    except RecursionError:
        table["__metadata__"] = {"subspaces": json.dumps(header)[:-1] + f',"x":{flood}}}'}
        text = json.dumps(table).encode()
        return struct.pack("<Q", len(text)) + text + data


def _in_trajectory(content: bytes, flood: str) -> bytes:
    end = 48 + int.from_bytes(content[8:16], "little")
    return _sealed(content, content[48:end].rstrip()[:-1] + b',"x":' + flood.encode() + b"}", end)


def _in_layout(content: bytes, flood: str) -> bytes:
    end = 48 + int.from_bytes(content[8:16], "little")
    header: dict[str, Any] = json.loads(content[48:end])
    return _sealed(content, json.dumps({**header, "layout": flood}).encode(), end)


def _sealed(content: bytes, text: bytes, end: int) -> bytes:
    text += b" " * (-(len(text) + 48) % 64)
    return content[:8] + struct.pack("<Q", len(text)) + hashlib.sha256(text).digest() + text + content[end:]


_CONTAINER = {"the table": _in_table, "the header": _in_header}
_TRAJECTORY = {"the header": _in_trajectory, "the layout": _in_layout}


def bombs(content: bytes) -> Iterator[Mutant]:
    """Layouts that decompress to 64 MB, of brackets and of tensors, and one of 16 MB that is none."""
    table, header, data = opened(content)
    for name, unit, times in (
        ("64 MB of brackets", b"[" * (1 << 20), 64),
        ("64 MB of names", b'["a",[1],"float32"],' * 52429, 64),
    ):
        packer = zlib.compressobj(9)
        raw = b"".join([*(packer.compress(unit) for _ in range(times)), packer.flush()])
        yield Mutant(closed(table, {**header, "layout": base64.b85encode(raw).decode()}, data, True), name, True)
    yield Mutant(closed(table, {**header, "layout": "0" * 16_000_000}, data, True), "16 MB packed", True)


def peak(work: Callable[[], Any]) -> tuple[Any, int]:
    """What a call gives, and by how many bytes the memory of this process grew (not on Linux: beyond its peak)."""
    try:
        if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
            trim(0)  # what was freed before is no room for this call
        Path("/proc/self/clear_refs").write_text("5")  # Linux counts the peak from here on
        before = _resident("VmRSS")
    except OSError:
        before = _most()
        return work(), _most() - before
    return work(), _resident("VmHWM") - before


def _most() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _resident(entry: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(entry + ":"))
