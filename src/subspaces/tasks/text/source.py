"""Texts as data: token ids of one length with a mask, cut to the longest of each batch where they are used."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subspaces.datasets import Data, DataOptions
from subspaces.datasets.forms import SHARE
from subspaces.datasets.options import apply_options, split_validation
from subspaces.tasks.columns import TargetColumns
from subspaces.tasks.losses import IGNORED
from subspaces.tasks.tables import Table, is_missing, numbers, words
from subspaces.tasks.text.files import Files, digests, stamp
from subspaces.tasks.text.pretrained import Pretrained

PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"),
         ("text1", "text2"), ("#1 String", "#2 String"))  # fmt: skip
ONE = ("text", "sentence", "content", "review", "document")
TARGETS = ("label", "labels", "target", "class", "Quality")
"""Names of columns that are known without being named, those of GLUE and of most data sets."""


@dataclass(frozen=True)
class Read:
    """What was read of a part.

    Attributes:
        texts: n texts or pairs of texts.
        targets: class numbers, int64 (n,); None where there are none.
    """

    texts: Sequence[Any]
    targets: Tensor | None


@dataclass(frozen=True)
class Texts:
    """The texts of a task, as its model takes them.

    Attributes:
        files: where they are.
        model: whose tokenizer makes ids of them, and which says how many.
        text, target: columns; known names without them.
    """

    files: Files
    model: Pretrained
    text: tuple[str, ...] = ()
    target: str | None = None

    @property
    def dataset(self) -> str:
        """What lists call it."""
        return self.files.name

    def load(self, options: DataOptions, root: str | Path | None) -> Data:
        """The data in memory, with these changes; token ids int64 (n, length), class numbers int64 (n,) as targets.

        In language modelling the targets are the next tokens, (n, length), −100 behind the last one. A validation part
        that the files bring is used as it is; with `options.validation` it joins the training part, and as many
        examples are drawn from both, others for another seed.

        Raises:
            FileNotFoundError: files that are not there.
            ValueError: columns that are not there, labels that are no classes.
        """
        found = self.files.find(root)
        drawn = options.validation is not None
        data = _encoded(self, str(root) if root is not None else None, stamp(found), drawn)
        return apply_options(split_validation(data, options, 0 if len(data.val_y) else SHARE), options)

    def definition(self) -> dict[str, Any]:
        """What decides its numbers, ready for JSON: contents of the files, what is read of them, and how."""
        columns = {"text": list(self.text), "target": self.target}
        return {"dataset": self.dataset, "files": digests(self.files.find(None))} | columns

    def labelled(self) -> bool:
        """Whether there is a column of labels; the files are read."""
        table = self._tables(None)["train"]
        return self.target is not None or _known(table, (TARGETS,)) is not None

    def classes(self) -> int:
        """Number of classes of the training part."""
        return len(self._targets(self._tables(None)["train"]).classes or ())

    # ---- columns

    def _tables(self, root: str | None) -> dict[str, Table]:
        found = self.files.find(root)
        return _tables(self.files, root, stamp(found))

    def _targets(self, table: Table) -> TargetColumns:
        name = self.target or _known(table, (TARGETS,))
        if name is None:
            raise ValueError(f"`target` must name the column of the labels; {table.path} has {_told(table)}.")
        column = numbers(table, name, "target")
        if column is not None and (column != column.round()).any():
            raise ValueError(
                f"`target` must be a column of classes, words or integers; {name!r} of {table.path} holds "
                f"{column[column != column.round()][0]:g}. Numbers want a task of your own: subspaces new task"
            )
        return TargetColumns.learn(table, [name], column is not None)

    def _texts(self, table: Table) -> Sequence[Any]:
        names = self.text or self._guessed(table)
        columns = [words(table, name, "text") for name in names]
        return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))

    def _guessed(self, table: Table) -> tuple[str, ...]:
        target = self.target or _known(table, (TARGETS,))
        others = [name for name in table.columns if name != target]
        if pair := next((pair for pair in PAIRS if set(pair) <= set(others)), None):
            return pair
        one = _known(table, (ONE,)) or (others[0] if len(others) == 1 else None)
        if one is None:
            raise ValueError(
                f"`text` must name the column of the texts, or two for pairs; {table.path} has {_told(table)}. "
                "Such as text=title, or text=title+body."
            )
        return (one,)

    def read(self, root: str | None) -> dict[str, Read]:
        """Texts and labels of each part; a test part without labels is left out."""
        tables = self._tables(root)
        if self.model.causal:
            return {part: Read(self._texts(table), None) for part, table in tables.items()}
        learned, found = self._targets(tables["train"]), {}
        for part, table in tables.items():
            name = learned.names[0]
            if part == "test" and (name not in table.columns or all(map(is_missing, table.columns[name]))):
                continue
            found[part] = Read(self._texts(table), learned.apply(table))
        return found


def _known(table: Table, groups: Sequence[Sequence[str]]) -> str | None:
    return next((name for group in groups for name in group if name in table.columns), None)


def _told(table: Table) -> str:
    return ", ".join(map(repr, table.columns))


@functools.lru_cache(maxsize=4)
def _tables(files: Files, root: str | None, stamped: str) -> dict[str, Table]:
    return {part: files.read(path) for part, path in files.find(root).items()}


# ---- ids


@functools.lru_cache(maxsize=2)
def _encoded(source: Texts, root: str | None, stamped: str, joined: bool) -> Data:
    """All parts as ids, kept for the next run of this process; joined: the validation part behind the training part."""
    tokenizer, read = source.model.tokenizer(), source.read(root)
    if joined and (more := read.pop("val", None)) is not None:
        read["train"] = _both(read["train"], more)
    parts = {part: _ids(one, tokenizer, source) for part, one in read.items()}
    x, y = parts["train"]
    none = {name: column[:0].clone() for name, column in x.items()}, y[:0].clone()
    pairs = {name: parts.get(name, none) for name in ("train", "val", "test")}
    return Data(**{f"{n}_{side}": pair[i] for n, pair in pairs.items() for i, side in enumerate("xy")}, padded=True)


def _both(first: Read, second: Read) -> Read:
    labels = [one.targets for one in (first, second) if one.targets is not None]
    return Read([*first.texts, *second.texts], torch.cat(labels) if labels else None)


def _ids(read: Read, tokenizer: Any, source: Texts) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs and targets of a part."""
    if read.targets is None:
        return _next_tokens(read, tokenizer, source.model.length())
    columns = [[pair[i] for pair in read.texts] for i in (0, 1)] if isinstance(read.texts[0], tuple) else [read.texts]
    cut: dict[str, Any] = {"truncation": True, "max_length": source.model.length(), "padding": "longest"}
    inputs = dict(tokenizer(*map(list, columns), return_tensors="pt", return_attention_mask=True, **cut))
    types = inputs.pop("token_type_ids", None)
    if types is not None and bool(types.any()):
        inputs["token_type_ids"] = types
    return inputs, read.targets


def _next_tokens(read: Read, tokenizer: Any, length: int) -> tuple[dict[str, Tensor], Tensor]:
    """Running text in pieces of `length` tokens, each with its next tokens as targets; the last piece is filled up."""
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    encoded = tokenizer(list(read.texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
    stream = [token for ids in encoded for token in (*ids, *([] if end is None else [end]))]
    pieces = -(-(len(stream) - 1) // length)  # a last piece of one token would have nothing to predict
    if pieces < 1:
        raise ValueError(f"`task` must hold running text of at least 2 tokens; got {len(stream)}. Take a longer file.")
    stream = stream[: pieces * length]
    ids = torch.full((pieces * length,), int(tokenizer.pad_token_id or 0))
    ids[: len(stream)] = torch.tensor(stream, dtype=torch.int64)
    mask = (torch.arange(pieces * length) < len(stream)).long()
    following = torch.full_like(ids, IGNORED)
    following[: len(stream) - 1] = ids[1 : len(stream)]
    table = following.view(pieces, length)
    table[:, -1] = IGNORED  # its next token is in the next piece, where it is read without what stands before
    return {"input_ids": ids.view(pieces, length), "attention_mask": mask.view(pieces, length)}, table
