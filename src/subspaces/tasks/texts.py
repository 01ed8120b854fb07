"""Texts as tensors: by a tokenizer of transformers, by a function, or by hashed words."""

import functools
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

VOCABULARY = 2**15
"""Ids of `hash_tokens`: 0 fills up, 1 stands between two sentences, words are 2 … 2¹⁵−1."""
_SEPARATOR, _FIRST = 1, 2
_WORD = re.compile(r"\w+|[^\w\s]")

Texts = Sequence[str] | Sequence[tuple[str, str]]


def encode(texts: Texts, tokenizer: Any, length: int) -> Tensor | dict[str, Tensor]:
    """Texts or pairs of texts as what a model takes.

    Args:
        texts: n texts, or n pairs.
        tokenizer: of transformers (padded and cut to `length`), a function texts -> tensor or dictionary of tensors
            of n rows, or None for `hash_tokens`.
        length: tokens per example.

    Raises:
        TypeError: the tokenizer is no function, or gives something else than tensors.
        ValueError: it gives another number of rows.
    """
    if length < 1:
        raise ValueError(f"`length` must be at least 1 token; got {length}.")
    if tokenizer is None:
        return hash_tokens(texts, length)
    if not hasattr(tokenizer, "__call__"):  # noqa: B004  # `callable` would narrow the type
        raise TypeError(
            f"`tokenizer` must be a tokenizer of transformers or a function; got {type(tokenizer).__name__}."
        )
    if hasattr(tokenizer, "model_max_length"):  # a tokenizer of transformers
        columns = [[pair[i] for pair in texts] for i in (0, 1)] if isinstance(texts[0], tuple) else [list(texts)]
        options: dict[str, Any] = {"padding": "max_length", "truncation": True, "max_length": length}
        found = dict(tokenizer(*columns, return_tensors="pt", **options))
    else:
        found = tokenizer(texts)
    return _checked(found, len(texts))


def _checked(found: Any, rows: int) -> Tensor | dict[str, Tensor]:
    parts = dict(found) if isinstance(found, Mapping) else {"": found}
    for part in parts.values():
        if not isinstance(part, Tensor):
            raise TypeError(
                f"`tokenizer` must give a tensor or a dictionary of tensors; got {type(part).__name__}. "
                "Pad to one length and return torch.tensor(ids)."
            )
        if len(part) != rows:
            raise ValueError(f"`tokenizer` must give one row per text, {rows}; got {len(part)}.")
    return parts if isinstance(found, Mapping) else parts[""]


def hash_tokens(texts: Texts, length: int = 64) -> Int64[Tensor, "n length"]:
    """Ids of lower-cased words and signs: 2 + crc32(word) mod (2¹⁵ − 2), the same everywhere; 0 fills up.

    No file and no training of a vocabulary; a few words share an id. Of a pair that is too long the longer text is
    cut. Cost: about 1 µs per word.

    Example:
        >>> hash_tokens(["A b a"], 4).tolist()
        [[24881, 14077, 24881, 0]]
    """
    ids = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, text in enumerate(texts):
        found = _ids(text) if isinstance(text, str) else _pair(_ids(text[0]), _ids(text[1]), length)
        found = found[:length]
        ids[row, : len(found)] = torch.tensor(found, dtype=torch.int64)
    return ids


def _pair(first: list[int], second: list[int], length: int) -> list[int]:
    room = max(0, length - 1)
    kept = min(len(first), max(room // 2, room - len(second)))
    return [*first[:kept], _SEPARATOR, *second[: room - kept]]


def _ids(text: str) -> list[int]:
    return [_id(word) for word in _WORD.findall(text.lower())]


@functools.lru_cache(maxsize=1 << 16)
def _id(word: str) -> int:
    return _FIRST + zlib.crc32(word.encode("utf-8", "surrogatepass")) % (VOCABULARY - _FIRST)
