"""Examples from files: tables, arrays, texts, folders of images, by one call."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from subspaces.errors import checked
from subspaces.tasks.arrays import Inputs, read_arrays
from subspaces.tasks.columns import InputColumns, TargetColumns
from subspaces.tasks.images import read_images
from subspaces.tasks.tables import Table, read_table, words
from subspaces.tasks.texts import encode

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Examples:
    """Inputs and targets in memory, on the CPU.

    Attributes:
        inputs: float32 (n, …) or int64 token ids (n, length), or a dictionary of such.
        targets: float32 (n,) or (n, k), or int64 class numbers (n,) or (n, …).
        classes: names of the classes 0, 1, …; None for numbers.
        test: inputs and targets of the test examples, None where the files hold none.
    """

    inputs: Inputs
    targets: Tensor
    classes: tuple[str, ...] | None = None
    test: tuple[Inputs, Tensor] | None = None

    def __len__(self) -> int:
        """Number of training examples."""
        return len(self.targets)


@checked
def read_examples(
    path: str | Path,
    *,
    target: str | Sequence[str] | None = None,
    text: str | Sequence[str] | None = None,
    tokenizer: Any = None,
    length: int = 64,
    size: int = 32,
    columns: Sequence[str] | None = None,
    classes: bool = False,
    standardise: bool = True,
    test: str | Path | None = None,
) -> Examples:
    """Examples of a file or folder, by its suffix.

    * ``.csv``, ``.tsv``, ``.parquet``, ``.jsonl`` of numbers and words: a column of words is one-hot, its words
      sorted; numbers are standardised. The file begins with the names of its columns.
    * The same with ``text=``: one text per row, or pairs of texts, as token ids. Fields of tsv files have no quotes.
    * ``.npz``: arrays ``x`` and ``y`` (and ``x_test``, ``y_test``), or `columns` and `target`; several inputs are a
      dictionary. Floats become float32, integers int64 (token ids), bytes of images float32 in [0, 1].
    * a folder: images as ``train/CLASS/*`` with ``val`` or ``test`` beside, or ``CLASS/*`` alone: float32
      (n, 3, size, size), the middle square, normalised by the constants of ImageNet.

    Targets are classes where they are words or bools, numbers otherwise: integers are classes only with
    ``classes=True``. Classes are numbered in sorted order, whatever their numbers in the file; maps of classes (n, H,
    W) in npz files keep theirs.

    Args:
        path: the file or folder.
        target: column of the targets, or several columns of numbers; array of them ("y") in an npz file.
        text: column of the texts, or two for pairs.
        tokenizer: a tokenizer of transformers, or a function texts -> tensors; by default words hashed to 2¹⁵ ids
            (`texts.hash_tokens`). Function and model must agree on the ids.
        length: tokens per text; shorter ones are filled up, longer ones cut.
        size: side of images in pixels.
        columns: input columns; by default all but the target.
        classes: whether integers in the target column are classes.
        standardise: whether columns of numbers get mean 0 and deviation 1 over the training rows (test rows by the
            same numbers); constant and one-hot columns stay.
        test: a file of the same form with the test examples, for tables and texts.

    Returns:
        Examples, the training part in the order of the file.

    Raises:
        FileNotFoundError: no such file, or images that are missing.
        ValueError: an unknown suffix or column, a damaged file, a missing value (with file, line and column), a
            class or word that only the test file has, an argument that does not go with the format.
        ImportError: a parquet file without pyarrow.

    Example:
        >>> read_examples("houses.csv", target="price").inputs.shape           # doctest: +SKIP
        torch.Size([506, 13])
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"`path` must be a file or folder of examples; {str(path)!r} does not exist.")
    if path.is_dir():
        _refuse("a folder of images", target=target, text=text, tokenizer=tokenizer, columns=columns, test=test)
        (inputs, targets), names, held = read_images(path, size)
        return Examples(inputs, targets, names, held)
    if path.suffix == ".npz":
        _refuse("an npz file", text=text, tokenizer=tokenizer, test=test)
        if not (target is None or isinstance(target, str)):
            raise ValueError(f"`target` must be one array of an npz file; got {list(target)}. Stack them as columns.")
        return Examples(*read_arrays(path, target, columns, classes, standardise))
    tables = [_table(Path(file).expanduser()) for file in (path, test) if file is not None]
    targets_of = TargetColumns.learn(tables[0], _target(tables[0], target), classes)
    if text is not None:
        _refuse("texts", columns=columns)
        inputs = [encode(_texts(table, text), tokenizer, length) for table in tables]
    else:
        _refuse("columns of numbers; name the texts by `text`", tokenizer=tokenizer)
        inputs_of = InputColumns.learn(tables[0], _columns(tables[0], columns, targets_of.names), standardise)
        inputs = [inputs_of.apply(table) for table in tables]
    parts = [(x, targets_of.apply(table)) for x, table in zip(inputs, tables, strict=True)]
    return Examples(*parts[0], targets_of.classes, parts[1] if len(parts) > 1 else None)


def _table(path: Path) -> Table:
    if not path.is_file():
        raise FileNotFoundError(f"`test` must be a file of examples; {str(path)!r} does not exist.")
    if path.suffix not in TABLES:
        raise ValueError(
            f"`path` must be a folder of images or end in {', '.join(TABLES)} or .npz; got {path.name!r}. "
            "Convert it, or pass tensors."
        )
    return read_table(path)


def _target(table: Table, target: str | Sequence[str] | None) -> Sequence[str]:
    if not target:
        raise ValueError(f"`target` must name the column to predict; {table.path} has {', '.join(table.columns)}.")
    return [target] if isinstance(target, str) else target


def _columns(table: Table, columns: Sequence[str] | None, targets: Sequence[str]) -> Sequence[str]:
    found = [columns] if isinstance(columns, str) else columns or [n for n in table.columns if n not in targets]
    if not found:
        raise ValueError(f"`columns` must name inputs; {table.path} has none besides {', '.join(targets)}.")
    if both := [name for name in found if name in targets]:
        raise ValueError(f"`columns` must not hold the target; got {both[0]!r} in both.")
    return found


def _texts(table: Table, text: str | Sequence[str]) -> list[Any]:
    names = [text] if isinstance(text, str) else list(text)
    if len(names) not in (1, 2):
        raise ValueError(f"`text` must be one column, or two for pairs of texts; got {len(names)}.")
    found = [words(table, name, "text") for name in names]
    return found[0] if len(found) == 1 else list(zip(*found, strict=True))


def _refuse(what: str, **arguments: Any) -> None:
    """Refuse arguments that the format has no use for, rather than ignore them."""
    if given := [name for name, value in arguments.items() if value is not None]:
        raise ValueError(f"`{given[0]}` must be left out for {what}; got {arguments[given[0]]!r}.")
