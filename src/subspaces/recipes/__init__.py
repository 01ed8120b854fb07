"""Recipes: one TOML file for every published table, to be read by someone who knows only the paper.

A recipe says what is claimed, how our protocol differs, and lists series. A series is one network on one task, trained
at some dimensions d (or directly), with the published numbers beside it; it may ask for the intrinsic dimension too.
`python -m pydoc subspaces.recipes` and the files beside this one are the format's documentation.
"""

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from subspaces.errors import unknown_name
from subspaces.train.config import TrainConfig

FOLDER = Path(__file__).parent
RECIPES: dict[str, Path] = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}
SUBSPACE_ONLY = (
    "projection", "projection_options", "only", "exclude", "blocks", "allocation", "layer_scale", "burn_in",
    "redraw_every",
)  # fmt: skip
SEED_STEP = 1_000_000


@dataclass(frozen=True)
class Wanted:
    """An intrinsic dimension to measure, with the published one."""

    published: int | None = None
    """d_int of the paper."""
    level: float = 0.9
    """Share of the baseline to pass."""
    baseline: str = "global"
    """`global`, `local` (direct runs by the same code) or a score."""
    max_runs: int = 24
    """Budget of runs in subspaces; those of the series' own d count."""
    ratio: float = 1.25
    """Wanted width high/low of the interval."""


@dataclass(frozen=True)
class Series:
    """One network on one task at several d."""

    name: str
    title: str
    """What a reader of the paper would call it."""
    task: str
    """Name of the task; `subspaces list tasks`."""
    d: tuple[int | None, ...]
    """Dimensions to train at; None (`"direct"` in the file) trains all parameters."""
    seeds: int = 3
    """Runs at each d. Run i at d has the seeds 1,000,000·i + d (direct: i), so no two runs share theirs."""
    published: Mapping[int | None, float] = field(default_factory=dict)
    """Published score at d: accuracies in per cent."""
    train: Mapping[str, Any] = field(default_factory=dict)
    """Fields of TrainConfig that differ from the task's settings."""
    direct: Mapping[str, Any] = field(default_factory=dict)
    """Further fields for direct training."""
    coordinate_lr: float | None = None
    """Rate of the coordinates themselves, as in a published code, in place of a native `lr`."""
    source: str = ""
    """Name of a series that records its runs: run i here trains in the subspace learned from run i there."""
    basis: Literal["dldr", "lottery", "ticket", "imp"] = "dldr"
    """What is learned from it: directions, or a ticket by one-shot or iterative magnitude pruning (round by round along
    `d`, from the largest to the smallest)."""
    samples: int | None = None
    """Learn from the first so many samples; all of them without it."""
    measure: Literal["score", "pca_ratio", "projection"] = "score"
    """Of a series with a source: the score after training, the share of the variance that d directions hold, or the
    score of the last iterate projected on the subspace, without training in it."""
    dimension: Wanted | None = None
    panel: str = ""
    """Series of one panel share a part of the figure; its own name without it."""
    note: str = ""
    default: bool = True
    """Whether it runs without being named."""

    def config(self, d: int | None, i: int = 0) -> TrainConfig:
        """Run number i at dimension d (None: direct); with `coordinate_lr`, its `lr` is still to be filled in."""
        fields = dict(self.train)
        if d is None:
            fields = {k: v for k, v in fields.items() if k not in SUBSPACE_ONLY} | dict(self.direct)
        seed = i if d is None else SEED_STEP * i + d
        return TrainConfig(self.task, d=d, seed_projection=seed, seed_model=seed, seed_data=seed, **fields)

    def search_config(self) -> TrainConfig:
        """The runs of a search for the intrinsic dimension: without d and seeds."""
        return TrainConfig(self.task, **self.train)


@dataclass(frozen=True)
class Smoke:
    """The version that takes a minute: it shows that everything runs, its numbers mean nothing."""

    seeds: int = 1
    points: int = 2
    """Dimensions of each series: the first, the last and what lies evenly between; direct training besides."""
    max_runs: int = 4
    series: tuple[str, ...] = ()
    """Only these; all default ones without it."""
    train: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """One published table or figure."""

    name: str
    title: str
    paper: str
    claim: str
    """What is claimed, in words."""
    protocol: str
    """Where our protocol differs from the published one."""
    series: tuple[Series, ...]
    smoke: Smoke = field(default_factory=Smoke)

    def choose(self, names: Sequence[str] = (), *, everything: bool = False) -> tuple[Series, ...]:
        """The series of these names; without names those that run by default, or all of them."""
        known = {one.name: one for one in self.series}
        for name in names:
            if name not in known:
                raise unknown_name("series", name, known)
        if names:
            return tuple(known[name] for name in known if name in names)
        return tuple(one for one in self.series if one.default or everything)

    def named(self, name: str) -> Series:
        """The series of a name, such as the source of another one."""
        known = {one.name: one for one in self.series}
        if name not in known:
            raise unknown_name("source", name, known)
        return known[name]

    def smoked(self, names: Sequence[str] = ()) -> "Recipe":
        """The same recipe in its minute's version: the series of these names, else those of the smoke section."""
        chosen = self.smoke.series
        kept = [one for one in self.choose(names) if names or not chosen or one.name in chosen]
        return dataclasses.replace(self, series=tuple(_small(one, self.smoke) for one in kept))


def _small(series: Series, smoke: Smoke) -> Series:
    points: list[int | None] = [d for d in series.d if d is not None]
    points = [points[i] for i in _spread(len(points), smoke.points)] + [None] * (None in series.d)
    wanted = series.dimension and dataclasses.replace(series.dimension, max_runs=smoke.max_runs)
    train = {**series.train, **smoke.train}
    direct = {k: v for k, v in series.direct.items() if k not in smoke.train}
    return dataclasses.replace(series, d=tuple(points), seeds=smoke.seeds, train=train, direct=direct, dimension=wanted)


def _spread(count: int, wanted: int) -> list[int]:
    """``wanted`` of ``count`` indices, ends included."""
    if count <= wanted:
        return list(range(count))
    return sorted({round(i * (count - 1) / max(1, wanted - 1)) for i in range(wanted)})


def load_recipe(name: str | Path) -> Recipe:
    """The recipe of a name, or in a TOML file of your own.

    Args:
        name: a key of `RECIPES`, or the path of a file that ends in ``.toml``.

    Raises:
        ValueError: no such recipe (with the nearest name), or a mistake in the file, named with its place.
        FileNotFoundError: no such file.

    Example:
        >>> load_recipe("li2018-toy").series[0].published[10]
        0.99977
    """
    path = Path(name)
    if path.suffix == ".toml":
        if not path.is_file():
            raise FileNotFoundError(f"`recipe` must be a name or a TOML file; got {str(path)!r}, which is not there.")
    elif str(name) not in RECIPES:
        raise unknown_name("recipe", str(name), RECIPES)
    else:
        path = RECIPES[str(name)]
    try:
        return _recipe(path.stem, tomllib.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"`recipe` {path.name}: {error}") from error


def _recipe(name: str, table: dict[str, Any]) -> Recipe:
    common = table.pop("train", {})
    smoke = table.pop("smoke", {})
    series = tuple(_series(one, common) for one in table.pop("series", []))
    if not series:
        raise ValueError("`series` must list at least one series; got none. Add a [[series]] table.")
    names = [one.name for one in series]
    if doubled := {one for one in names if names.count(one) > 1}:
        raise ValueError(f"`name` must be different for every series; got {sorted(doubled)} twice.")
    for one in series:
        if one.source and one.source not in names:
            raise unknown_name("source", one.source, names)
        if one.source and not next(other.train.get("record") for other in series if other.name == one.source):
            raise ValueError(f'`source` of {one.name!r} must record; add record = "epoch" to `train` of it.')
    smoke = _filled(Smoke, {**smoke, "series": tuple(smoke.get("series", ()))}, "[smoke]")
    return _filled(Recipe, {**table, "name": name, "series": series, "smoke": smoke}, "the recipe")


def _series(table: dict[str, Any], common: dict[str, Any]) -> Series:
    where = f"[[series]] {table.get('name', '')!r}"
    fields = {"title": table.get("name", ""), **table}
    fields["train"] = {**common, **table.get("train", {})}
    fields["d"] = tuple(_dimension(d, where) for d in table.get("d", ()))
    fields["published"] = {_dimension(d, where): float(v) for d, v in table.get("published", {}).items()}
    if isinstance(table.get("dimension"), dict):
        wanted = dict(table["dimension"])
        wanted["baseline"] = str(wanted.get("baseline", Wanted.baseline))
        fields["dimension"] = _filled(Wanted, wanted, f"dimension of {where}")
    series = _filled(Series, fields, where)
    if series.source and (None in series.d or series.dimension):
        raise ValueError(f'{where}: `d` must be numbers, without `dimension`, with `source`; got "direct". Remove it.')
    if missing := [_typed(d) for d in series.published if d not in series.d]:
        raise ValueError(f"{where}: `published` must be at d of the series; got {missing} besides. Add them to `d`.")
    if series.coordinate_lr is not None and (series.dimension or "lr" in series.train):
        raise ValueError(f"{where}: `coordinate_lr` must stand without `lr` and `dimension`. Remove one.")
    for d in series.d or (1,):
        series.config(d)  # a mistake in `train` is told now, not after an hour
    return series


def _dimension(typed: Any, where: str) -> int | None:
    """`d` as written in a file: a positive integer or "direct"."""
    if typed == "direct":
        return None
    if not str(typed).isdigit() or int(typed) < 1:
        raise ValueError(f'{where}: `d` must be positive integers or "direct"; got {typed!r}.')
    return int(typed)


def _typed(d: int | None) -> str:
    return "direct" if d is None else str(d)


def _filled(cls: Any, fields: dict[str, Any], where: str) -> Any:
    """An instance of a dataclass; unknown and missing fields are told in the words of the file."""
    known = {f.name: f for f in dataclasses.fields(cls)}
    for name in fields:
        if name not in known:
            raise ValueError(f"{where}: {unknown_name('key', name, known)}")
    needed = [n for n, f in known.items() if f.default is f.default_factory is dataclasses.MISSING and n not in fields]
    if needed:
        raise ValueError(f"{where}: `{needed[0]}` must be given.")
    return cls(**fields)
