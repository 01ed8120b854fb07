"""Ways to damage a file: bytes at random, the tables of its header, and (`sealed`) with a hash that fits again."""

import copy
import hashlib
import json
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

Mutator = Callable[[bytes, random.Random], bytes]


class Mutant(NamedTuple):
    """A damaged file; a sealed one has a right hash, so that only what it says can be wrong with it."""

    content: bytes
    way: str
    sealed: bool = False


def flips(content: bytes, stride: int = 1) -> Iterator[Mutant]:
    """Every single flipped bit, or each `stride`-th."""
    for bit in range(0, len(content) * 8, stride):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield Mutant(bytes(changed), "flip")


def mutants(content: bytes, count: int, seed: int = 0) -> Iterator[Mutant]:
    """`count` damaged files, the ways in turn."""
    rng = random.Random(seed)
    structured = TRAJECTORY_WAYS if content.startswith(b"SUBTRAJ2") else CONTAINER_WAYS
    if content.startswith(b"SUBTRAJ1"):
        structured = TRAJECTORY_WAYS[:1]  # there is no hash to make fit
    ways = [*((name, way, False) for name, way in BYTE_WAYS.items()), *structured]
    for i in range(count):
        name, way, sealed = ways[i % len(ways)]
        yield Mutant(way(content, rng), name, sealed)


# ---- bytes


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def _overwrite(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 9)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _leave_out(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + content[at + rng.randrange(1, 65) :]


def _put_in(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.randbytes(rng.randrange(1, 65)) + content[at:]


def _zero(content: bytes, rng: random.Random) -> bytes:
    at, count = rng.randrange(len(content)), rng.randrange(1, 513)
    return content[:at] + bytes(len(content[at : at + count])) + content[at + count :]


def _swap(content: bytes, rng: random.Random) -> bytes:
    size = rng.choice((4, 8, 64))
    a, b = sorted(rng.randrange(len(content) // size) * size for _ in range(2))
    one, two = content[a : a + size], content[b : b + size]
    return content if a == b else content[:a] + two + content[a + size : b] + one + content[b + size :]


def _double(content: bytes, rng: random.Random) -> bytes:
    at, count = rng.randrange(len(content)), rng.randrange(1, 257)
    return content[: at + count] + content[at:]


def _length(content: bytes, rng: random.Random) -> bytes:
    """Another length of the header."""
    at = 8 if content.startswith(b"SUBTRAJ") else 0
    true = int.from_bytes(content[at : at + 8], "little")
    told = rng.choice((0, 1, 2, 7, true - 1, true + 1, true - 8, true + 8, len(content), 2**31, 2**63, 2**64 - 1))
    return content[:at] + struct.pack("<Q", max(0, told)) + content[at + 8 :]


BYTE_WAYS: dict[str, Mutator] = {
    "cut": _cut, "overwrite": _overwrite, "leave out": _leave_out, "put in": _put_in, "zero": _zero, "swap": _swap,
    "double": _double, "length": _length,
}  # fmt: skip


# ---- tables


HOSTILE: list[Any] = [
    None, True, -1, 0, 1, 2, 2**31, 2**47, 2**62, 2**70, 0.5, 1e308, float("nan"), "", "x", "../x", "os:system", [], {},
    [0], [2**40, 2**40], [[]], {"a": 1}, "F64", "hadamard", "dense", "basis", "ticket",
]  # fmt: skip


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _spoil(value: Any, rng: random.Random) -> None:
    """Change one place of a JSON value: another value, none, another name, or one more."""
    places = list(_places(value))
    holder, key = rng.choice(places)
    act = rng.randrange(6)
    if act == 0:
        del holder[key]
    elif act == 1 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif act == 2:
        other, name = rng.choice(places)
        holder[key] = copy.deepcopy(other[name])
    elif act == 3 and type(holder[key]) is int:
        holder[key] += rng.choice((-8, -1, 1, 4))
    else:
        holder[key] = rng.choice(HOSTILE)


def opened(content: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Table, our header (metadata in format 1), data."""
    start = 8 + int.from_bytes(content[:8], "little")
    table = json.loads(content[8:start])
    metadata = table["__metadata__"]
    return table, json.loads(metadata["subspaces"]) if "subspaces" in metadata else metadata, content[start:]


def closed(table: dict[str, Any], header: dict[str, Any], data: bytes, seal: bool) -> bytes:
    """A file again; `seal` makes its hash fit."""
    if seal:
        header = {**header, "content_digest": _digest(header, table, data)}
    if "subspaces" in table.get("__metadata__", {"subspaces": 0}):
        table = {**table, "__metadata__": {"subspaces": json.dumps(header)}}
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + data


WORDS = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "I64": "int64", "U8": "uint8", "I8": "int8"}


def _digest(header: dict[str, Any], table: dict[str, Any], data: bytes) -> str:
    def canonical(value: Any) -> bytes:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    total = hashlib.sha256(canonical({k: v for k, v in header.items() if k != "content_digest"}))
    for name in sorted(table):
        if name != "__metadata__":
            start, stop = table[name]["data_offsets"]
            total.update(canonical([name, WORDS[table[name]["dtype"]], table[name]["shape"]]) + data[start:stop])
    return total.hexdigest()[:32]


def _table(content: bytes, rng: random.Random) -> bytes:
    """One place of the table of tensors."""
    table, header, data = opened(content)
    tensors = {name: entry for name, entry in table.items() if name != "__metadata__"}
    _spoil(tensors, rng)
    return closed({"__metadata__": table["__metadata__"], **tensors}, header, data, False)


def _header(content: bytes, rng: random.Random, seal: bool = False) -> bytes:
    """One place of our header."""
    table, header, data = opened(content)
    _spoil(header, rng)
    return closed(table, header, data, seal)


def _sealed_header(content: bytes, rng: random.Random) -> bytes:
    return _header(content, rng, True)


def _sealed_data(content: bytes, rng: random.Random) -> bytes:
    """Other numbers, or tensors left out or under another name."""
    table, header, data = opened(content)
    names = [name for name in table if name != "__metadata__"]
    if rng.randrange(2):
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 9)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        data = bytes(changed)
    elif rng.randrange(2):
        name, other = rng.choice(names), rng.choice([*names, "x"])
        table[name], table[other] = table.get(other, table[name]), table[name]
    else:
        entry = table[rng.choice(names)]
        entry["shape"] = rng.choice(([1, *entry["shape"]], entry["shape"][::-1], [*entry["shape"], 1]))
    return closed(table, header, data, True)


def _twins(content: bytes, rng: random.Random) -> bytes:
    """A key that stands twice, with another value the second time."""
    table, header, data = opened(content)
    text = json.dumps(header)
    key = rng.choice(list(header))
    doubled = f"{text[:-1]}, {json.dumps(key)}: {json.dumps(rng.choice(HOSTILE))}}}"
    if "subspaces" not in table["__metadata__"]:
        return closed(table, header, data, False)[:-1]
    table["__metadata__"] = {"subspaces": doubled}
    whole = json.dumps(table).encode()
    return struct.pack("<Q", len(whole)) + whole + data


def _deep(content: bytes, rng: random.Random) -> bytes:
    """JSON many levels deep, in the table or in our header."""
    depth = rng.choice((50, 900, 1100, 20_000))
    nest = "[" * depth + "]" * depth
    table, header, data = opened(content)
    if rng.randrange(2):
        text = json.dumps(table)[:-1] + f', "x": {nest}}}'
    else:
        table["__metadata__"] = {"subspaces": json.dumps(header)[:-1] + f', "x": {nest}}}'}
        text = json.dumps(table)
    return struct.pack("<Q", len(text)) + text.encode() + data


CONTAINER_WAYS: list[tuple[str, Mutator, bool]] = [
    ("table", _table, False), ("header", _header, False), ("twins", _twins, False), ("deep", _deep, False),
    ("sealed header", _sealed_header, True), ("sealed data", _sealed_data, True),
]  # fmt: skip


# ---- trajectories


def _sealed_trajectory(content: bytes, rng: random.Random) -> bytes:
    """One place of the header, with its hash and those of the records made to fit."""
    end = 48 + int.from_bytes(content[8:16], "little")
    header, old = json.loads(content[48:end]), content[16:48]
    sizes = {"float32": 4, "bfloat16": 2, "float64": 8}
    body, records, offset = header["D"], [], end
    wide, narrow, more = sizes[header["wide"]], sizes[header["dtype"]], header["buffer_bytes"]
    while offset < len(content):
        count = body * (narrow if records else wide) + more
        records.append((content[offset : offset + count], content[offset + count : offset + count + 24]))
        offset += -(-(count + 56) // 64) * 64
    _spoil(header, rng)
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 48) % 64)
    salt = hashlib.sha256(text).digest()
    assert len(old) == len(salt)
    parts = [b"SUBTRAJ2", struct.pack("<Q", len(text)), salt, text]
    for raw, mark in records:
        record = raw + mark + hashlib.sha256(salt + mark[8:] + raw).digest()
        parts.append(record + bytes(-len(record) % 64))
    return b"".join(parts)


def _trajectory_header(content: bytes, rng: random.Random) -> bytes:
    before = 48 if content.startswith(b"SUBTRAJ2") else 16
    end = before + int.from_bytes(content[8:16], "little")
    header = json.loads(content[before:end])
    _spoil(header, rng)
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + before) % 64)
    return content[:8] + struct.pack("<Q", len(text)) + content[16:before] + text + content[end:]


TRAJECTORY_WAYS: list[tuple[str, Mutator, bool]] = [
    ("header", _trajectory_header, False), ("sealed header", _sealed_trajectory, True),
]  # fmt: skip
