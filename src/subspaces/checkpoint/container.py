"""The file itself: one safetensors file whose header says what it holds and whose hash covers all of it.

Format 2 hashes the header and, tensor by tensor, name, dtype, shape and bytes. Format 1 (read, not written any more)
hashed the bytes alone.
"""

import base64
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from subspaces.files import atomic_write
from subspaces.layout import digest_of

FORMAT = 2
_KEY = "subspaces"


def write(path: Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write header and tensors to `path`, whole or not at all.

    Raises:
        FileNotFoundError, OSError: no such folder, disk full; an older file stays as it was.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"`path` must be in a folder that exists; got {str(path)!r}. Make the folder first.")
    whole = {**header, "format": FORMAT}
    whole["content_digest"] = digest(whole, tensors)
    atomic_write(path, serialise(tensors, {_KEY: json.dumps(whole, separators=(",", ":"))}))


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a checkpoint, verified.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of this library, cut short, altered, or of a newer format.
    """
    path = Path(path)
    header, tensors = _opened(path, with_tensors=True)
    if header.get("format") == 1:
        found = digest_of([tensors[name] for name in sorted(tensors)])
    elif header.get("format") == FORMAT:
        found = digest({k: v for k, v in header.items() if k != "content_digest"}, tensors)
    else:
        raise ValueError(
            f"`path` must be of format {FORMAT} or older; got format {header.get('format')} in {str(path)!r}. "
            f"Update subspaces."
        )
    if header.get("content_digest") != found:
        raise ValueError(f"`path` must be unaltered; got {str(path)!r}, whose contents do not match their hash.")
    return header, tensors


def form_of(path: str | Path) -> dict[str, Any]:
    """What the saved subspace said of its form (`Subspace.form`); {} for a plain one. Reads the header only."""
    form = _opened(Path(path), with_tensors=False)[0].get("form", {})
    return dict(form) if isinstance(form, dict) else {}


def digest(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the header (JSON, sorted keys) and each tensor's name, dtype, shape and bytes, sorted by name."""
    total = hashlib.sha256(json.dumps(header, sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        told = json.dumps([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)], separators=(",", ":"))
        total.update(told.encode())
        total.update(tensor.detach().reshape(-1).contiguous().cpu().view(torch.uint8).numpy().data)
    return total.hexdigest()[:32]


def _opened(path: Path, with_tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be a checkpoint file; got {str(path)!r}, which does not exist.")
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            if text is None:
                raise ValueError(f"`path` must be a subspace checkpoint; got {str(path)!r}, another safetensors file.")
            header = json.loads(text)
            names = file.keys() if with_tensors else ()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, json.JSONDecodeError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"`path` must be a whole checkpoint; got {str(path)!r}, damaged or cut short ({error})."
        ) from error
    if not isinstance(header, dict):
        raise ValueError(f"`path` must be a whole checkpoint; got {str(path)!r}, whose header is damaged.")
    return header, tensors


def pack(text: str) -> str:
    """A text compressed, as text."""
    return base64.b85encode(zlib.compress(text.encode(), 9)).decode()


def unpack(text: str) -> str:
    """The text that `pack` was given."""
    return zlib.decompress(base64.b85decode(text)).decode()
