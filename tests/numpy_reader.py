"""docs/file-format.md in NumPy: reads every file of format 2 without torch and without the library."""

import base64
import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
from numpy_projections import np_dense, np_hadamard

CODES = {
    "F64": ("<f8", "float64"), "F32": ("<f4", "float32"), "F16": ("<f2", "float16"), "BF16": ("<u2", "bfloat16"),
    "I64": ("<i8", "int64"), "I32": ("<i4", "int32"), "I16": ("<i2", "int16"), "I8": ("|i1", "int8"),
    "U8": ("|u1", "uint8"), "BOOL": ("|b1", "bool"),
}  # fmt: skip
WORDS = {word: code for code, word in CODES.values()}


def values(raw, word, shape):
    """Bytes as an array; bfloat16 as float32."""
    array = np.frombuffer(raw, WORDS[word]).reshape(shape)
    return (array.astype("<u4") << 16).view("<f4") if word == "bfloat16" else array


def canonical(value):
    """JSON as it is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def read(path):
    """Header and arrays of a checkpoint, basis, ticket or state; an AssertionError if the hash does not match."""
    content = Path(path).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads((table := json.loads(content[8:start])).pop("__metadata__")["subspaces"])
    told, arrays = header.pop("content_digest"), {}
    total = hashlib.sha256(canonical(header))
    for name in sorted(table):
        shape, (a, b) = table[name]["shape"], table[name]["data_offsets"]
        word, raw = CODES[table[name]["dtype"]][1], content[start + a : start + b]
        total.update(canonical([name, word, shape]) + raw)
        arrays[name] = values(raw, word, shape)
    assert (header["format"], told) == (2, total.hexdigest()[:32])
    return header, arrays


def layout(header):
    """Names, shapes and dtypes of the tensors of θ."""
    return json.loads(zlib.decompress(base64.b85decode(header["layout"])))


def named(vector, entries):
    """A flat θ by the names of its tensors."""
    ends = np.cumsum([int(np.prod(shape)) for _, shape, _ in entries])
    parts = zip(entries, np.split(vector, ends[:-1]), strict=True)
    return {name: part.reshape(shape) for (name, shape, _), part in parts}


def coordinates(arrays):
    """w in whichever precision it is stored."""
    w = arrays["coordinates"].astype(np.float64) * arrays.get("unit", 1)
    return np.concatenate([w, arrays.get("scales", [])])


def projection(spec):
    """P of a spec in float64, for the two kinds that the tests decode."""
    sizes, options = (spec["d"], spec["D"], spec["seed"]), spec["options"]
    if spec["kind"] == "hadamard":
        return np_hadamard(*sizes, options.get("block", 256))
    assert (spec["kind"], options.get("entries", "rademacher")) == ("dense", "rademacher")
    return np_dense(*sizes)


def theta(path, origin=None):
    """θ = θ₀ + P w by name; θ₀ by name from the file, or as the model brings it."""
    header, arrays = read(path)
    entries = layout(header)
    start = {n: arrays["origin." + n] for n, _, _ in entries} if origin is None else origin
    flat = np.concatenate([np.asarray(start[name], np.float64).ravel() for name, _, _ in entries])
    return named(flat + projection(header["projection"]) @ coordinates(arrays), entries)


def trajectory(path):
    """Header and samples, each its step, its θ by name and the bytes of its buffers."""
    content = Path(path).read_bytes()
    end = 48 + int.from_bytes(content[8:16], "little")
    salt, header, samples = content[16:48], json.loads(content[48:end]), []
    assert (content[:8], hashlib.sha256(content[48:end]).digest()) == (b"SUBTRAJ2", salt)
    while end < len(content):
        word = header["dtype"] if samples else header["wide"]
        middle = end + header["D"] * np.dtype(WORDS[word]).itemsize
        stop = middle + header["buffer_bytes"]
        tail = content[stop : stop + 56]
        assert tail == b"SAMPLEOK" + tail[8:24] + hashlib.sha256(salt + tail[8:24] + content[end:stop]).digest()
        vector = values(content[end:middle], word, -1)
        samples.append((int.from_bytes(tail[16:24], "little"), vector, content[middle:stop]))
        end += -(-(stop + 56 - end) // 64) * 64
    entries, first = json.loads(header["layout"]), samples[0][1] * (header["dtype"] == "bfloat16")
    whole = [vector + first if i else vector for i, (_, vector, _) in enumerate(samples)]
    return header, [(step, named(v, entries), raw) for v, (step, _, raw) in zip(whole, samples, strict=True)]
