"""Recipes: one TOML file for every published table, to be read by someone who knows only the paper.

A recipe says what is claimed, how our protocol differs, and lists series. A series is one network on one task, trained
at some dimensions d (or directly), with the published numbers beside it; it may ask for the intrinsic dimension too.
With a `transition` table a series asks for threshold dimensions over burn-in times and loss levels instead, with a
`wells` table for those of a quadratic well; all series of a recipe are of one kind.
`python -m pydoc subspaces.recipes.series` and the files beside this one are the format's documentation.
"""

import dataclasses
import functools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from subspaces.errors import shown, unknown_name
from subspaces.recipes.series import Kind, PublishedRule, Series, Smoke, TransitionWanted, Wanted, WellsWanted
from subspaces.runs.run import course_until

__all__ = [
    "RECIPES", "PublishedRule", "Recipe", "Series", "Smoke", "TransitionWanted", "Wanted", "WellsWanted", "load_recipe",
]  # fmt: skip

FOLDER = Path(__file__).parent
RECIPES: dict[str, Path] = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


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
    beside: tuple[str, ...] = ()
    """Series of other recipes, RECIPE:SERIES, whose intrinsic dimensions are drawn with those of this one."""

    @property
    def kind(self) -> Kind:
        """What is done with all of its series."""
        return self.series[0].kind

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

    def trained(self, **fields: Any) -> "Recipe":
        """The same recipe with these words of a run in all of its runs, such as `device`."""
        series = tuple(dataclasses.replace(one, train={**one.train, **fields}) for one in self.series)
        return dataclasses.replace(self, series=series)

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
    if "epochs" in train:
        train |= course_until(train["epochs"], train.get("milestones", ()))
    direct = {k: v for k, v in series.direct.items() if k not in smoke.train}
    transition = series.transition and dataclasses.replace(series.transition, **smoke.transition)
    wells = series.wells and dataclasses.replace(series.wells, **smoke.wells)
    return dataclasses.replace(
        series, d=tuple(points), seeds=smoke.seeds, train=train, direct=direct, dimension=wanted,
        transition=transition, wells=wells,
    )  # fmt: skip


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
    if path.suffix != ".toml":
        if str(name) not in RECIPES:
            raise unknown_name("recipe", str(name), RECIPES)
        return _shipped(RECIPES[str(name)])
    if not path.is_file():
        raise FileNotFoundError(f"`recipe` must be a name or a TOML file; got {str(path)!r}, which is not there.")
    return _read(path)


@functools.cache
def _shipped(path: Path) -> Recipe:
    """A recipe of the library, read once: a page is about all of them, and each has hundreds of runs to check."""
    return _read(path)


def _read(path: Path) -> Recipe:
    try:
        return _recipe(path.stem, tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"`recipe` must be a TOML file; got {path.name}: {error}. Mend that line.") from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"`recipe` {path.name}: {error}") from error


_TABLES = ("train", "smoke")


def _check_shape(table: dict[str, Any]) -> None:
    """Tables where tables have to be, before anything is looked up in them."""
    for key in _TABLES:
        if not isinstance(table.get(key, {}), dict):
            raise ValueError(f"`{key}` must be a table; got {shown(table[key])}. Write [{key}] above its entries.")
    listed = table.get("series", [])
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise ValueError(f"`series` must be tables; got {shown(listed)}. Write [[series]] above each.")
    for one in listed:
        for key in ("train", "direct", "published", "missed"):
            if not isinstance(one.get(key, {}), dict):
                raise ValueError(f"`{key}` must be a table; got {shown(one[key])}. Write [series.{key}] above it.")
        for key in ("d",):
            if not isinstance(one.get(key, []), list):
                raise ValueError(f"`{key}` must be a list; got {shown(one[key])}. Write {key} = [10, 20].")


def _recipe(name: str, table: dict[str, Any]) -> Recipe:
    _check_shape(table)
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
        if one.measure == "ema" and not next(o.train.get("record_ema") for o in series if o.name == one.source):
            raise ValueError(f"`source` of {one.name!r} must keep an average; add record_ema = 0.99 to `train` of it.")
    if len(kinds := {one.kind for one in series}) > 1:
        raise ValueError(f"`series` must all be of one kind; got {' and '.join(sorted(kinds))}. Make two recipes.")
    smoke = {**smoke, "series": tuple(smoke.get("series", ()))}
    smoke |= {key: _tuples(smoke[key]) for key in ("train", "transition", "wells") if key in smoke}
    smoke = _filled(Smoke, smoke, "[smoke]")
    table["beside"] = tuple(table.get("beside", ()))
    return _filled(Recipe, {**table, "name": name, "series": series, "smoke": smoke}, "the recipe")


def _series(table: dict[str, Any], common: dict[str, Any]) -> Series:
    where = f"[[series]] {table.get('name', '')!r}"
    fields = {"title": table.get("name", ""), **table}
    fields["train"] = _tuples({**common, **table.get("train", {})})
    fields["d"] = tuple(_dimension(d, where) for d in table.get("d", ()))
    for key in ("published", "published_best"):
        fields[key] = {_dimension(d, where): float(v) for d, v in table.get(key, {}).items()}
    if isinstance(table.get("dimension"), dict):
        wanted = dict(table["dimension"])
        wanted["baseline"] = str(wanted.get("baseline", Wanted.baseline))
        fields["dimension"] = _filled(Wanted, wanted, f"dimension of {where}")
    for key, cls in (("rule", PublishedRule), ("transition", TransitionWanted), ("wells", WellsWanted)):
        if isinstance(table.get(key), dict):
            fields[key] = _filled(cls, _tuples(table[key]), f"{key} of {where}")
    series = _filled(Series, fields, where)
    for key in () if series.kind == "wells" else ("task",) if series.kind == "transition" else ("task", "d"):
        if key not in table:
            raise ValueError(f"{where}: `{key}` must be given.")
    if series.kind != "table" and (series.d or series.dimension or series.source):
        raise ValueError(f"{where}: `d`, `dimension`, `source` must be left out with `{series.kind}`. Remove them.")
    if series.averages and (series.d != (None,) or not series.source):
        raise ValueError(f'{where}: `d` must be ["direct"] and `source` given with `measure` {series.measure}.')
    if series.source and not series.averages and (None in series.d or series.dimension):
        raise ValueError(f'{where}: `d` must be numbers, without `dimension`, with `source`; got "direct". Remove it.')
    if missing := [_typed(d) for d in (*series.published, *series.published_best) if d not in series.d]:
        raise ValueError(f"{where}: `published` must be at d of the series; got {missing} besides. Add them to `d`.")
    if (series.published_best or series.rule) and not series.evaluates_every_epoch:
        raise ValueError(f"{where}: `eval_every` must be 1 in `train` for a best epoch. Set it.")
    known = {*map(_typed, series.published), f"d_int{100 * series.dimension.level:g}" if series.dimension else ""}
    known |= {"d_int, best epoch"} if series.rule else set()
    if strange := sorted(set(series.missed) - known):
        raise ValueError(f"{where}: `missed` must be of published numbers, by d or quantity; got {strange}.")
    if series.coordinate_lr is not None and (series.dimension or "lr" in series.train):
        raise ValueError(f"{where}: `coordinate_lr` must stand without `lr` and `dimension`. Remove one.")
    for d in () if series.kind == "wells" else series.d or (1,):
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


def _tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


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
