"""What each command does: a function of its options that returns the exit status.

Imports of what takes long to load stay inside the functions, so that ``--help`` answers at once.
"""

import json
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from subspaces.cli.options import Compare, Dimension, Extract, List, Report, Reproduce, Train, Transition
from subspaces.errors import check_folder, shown
from subspaces.screen import Screen

WIDE = 200
"""Characters of a line where no person sits before it: logs and pipes lose nothing."""


def run_train(options: Train) -> int:
    """``subspaces train``."""
    from subspaces.runs.store import run_once
    from subspaces.runs.train import train
    from subspaces.terminal import TrainDisplay
    from subspaces.training.callbacks import Callback, TensorBoard

    _check_train(options)
    display = TrainDisplay()
    callbacks: list[Callback] = [display]
    if options.tensorboard:
        callbacks.append(TensorBoard((options.out or Path()) / "tensorboard"))
    try:
        if options.out is None:
            result = train(options.config, callbacks=callbacks)
        else:
            result = run_once(options.config, options.out, callbacks=callbacks)
    finally:
        display.close()
    assert result is not None  # run_once waits
    if options.json:
        print(json.dumps(result.to_row()))
    else:
        _print_result(result, options.out)
    return 1 if result.status == "diverged" else 0


def _check_train(options: Train) -> None:
    """Options without effect, and folders that are none, before anything is done."""
    config = options.config
    check_folder("out", options.out)
    if config.seeds.projection and config.d is None and config.space.file is None:
        raise ValueError(f"`seed_projection` must go with `d`; got {config.seeds.projection} without. Add `d`.")
    if config.seeds.projection and config.space.file is not None:
        raise ValueError(
            f"`seed_projection` must be left out with `subspace`, whose file holds the directions; got "
            f"{config.seeds.projection}. Remove it."
        )
    if config.optimizer.batchnorm == "reset" and config.subspace is None:
        raise ValueError(
            "`batchnorm` reset must go with `d`; got it in direct training, whose statistics are fresh. Add `d`."
        )
    if config.record.trace and options.out is None and not options.json:
        raise ValueError(
            "`record_trace` must go with `out` or `json`, which keep it; got neither. Add `out`, a folder."
        )


def _print_result(result: Any, out: Path | None) -> None:
    from subspaces.runs.store import folder_of

    screen = Screen()
    if result.status == "diverged":
        screen.print(Text.assemble(("diverged", "red"), f": {result.message}"), soft_wrap=True)
        return
    last = result.curves[-1]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("trained numbers", f"{result.trained:,} of D = {result.D:,}")
    for name, key in (("training", "train"), ("validation", "val"), ("test", "test")):
        if last.get(f"{key}_score") is not None:
            loss = last.get(f"{key}_loss")  # a person's own function need not tell one
            told = "" if loss is None else f"loss {loss:.4f}"
            table.add_row(f"{name} {result.score_name}", f"{last[f'{key}_score']:.4f}", told)
    rate = f", {last['steps_per_second']:,.0f} a second" if last.get("steps_per_second") else ""
    table.add_row("time", f"{result.seconds:.1f} s, {last['step']:,} steps{rate}")
    screen.print(table)
    if out is not None:
        screen.print(f"kept in {folder_of(out, result.config)}", soft_wrap=True)


def run_extract(options: Extract) -> int:
    """``subspaces extract``."""
    from subspaces.runs.extract import as_json, extract, rows

    found = extract(
        options.source, options.method, options.d, out=options.out, samples=options.samples, every=options.every,
        trust=options.trust,
    )  # fmt: skip
    if options.json:
        print(as_json(found))
        return 0
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in rows(found):
        table.add_row(name, value)
    Screen(width=WIDE).print(table)
    print(f"basis   {found.basis}\nfigure  {found.figure}")
    return 0


def run_dimension(options: Dimension) -> int:
    """``subspaces dimension``."""
    from subspaces.dimension.measure import measure_dimension
    from subspaces.dimension.terminal import SearchDisplay

    config, out = options.start(options.config, "dimension", options.rule)
    with SearchDisplay(f"intrinsic dimension of {config.task}, kept in {out}") as display:
        found = measure_dimension(
            config, out, options.rule, workers=options.workers, launcher=options.launcher,
            tensorboard=options.tensorboard, on_event=display,
        )  # fmt: skip
    return options.end(found, out, _show_dimension)


def _show_dimension(found: Any) -> None:
    from subspaces.dimension.rests import rests_on
    from subspaces.dimension.terminal import rates_line, tried_table

    screen = Screen(width=WIDE)
    screen.print(tried_table(found))
    if found.rates:
        screen.print(rates_line(found), soft_wrap=True)
    screen.print(Text(f"\n{found.estimate}", style="bold"), soft_wrap=True)
    box = Table(box=None, pad_edge=False, show_header=False)
    box.add_column(style="dim", no_wrap=True)
    for name, text in rests_on(found):
        box.add_row(name, text)
    screen.print(box)
    if found.estimate.d_int:
        compression = found.D / found.estimate.d_int
        screen.print(f"D = {found.D:,}, D/d = {compression:,.0f}; {found.seconds:.0f} s. Report:")


def run_transition(options: Transition) -> int:
    """``subspaces transition``."""
    from subspaces.transition.measure import measure_transition
    from subspaces.transition.terminal import TransitionDisplay

    config, out = options.start(options.config, "transition", options.rule)
    with TransitionDisplay(f"phase transition of {config.task}, kept in {out}") as display:
        found = measure_transition(
            config, out, options.rule, workers=options.workers, launcher=options.launcher, on_event=display
        )
    return options.end(found, out, _show_transition)


def _show_transition(found: Any) -> None:
    from subspaces.transition.terminal import caveats, remarks, thresholds_table

    screen = Screen(width=WIDE)
    screen.print(thresholds_table(found))
    rule = found.rule
    part = {"train": "training", "val": "validation", "test": "test"}[rule.on]
    screen.print(
        f"d*: smallest d at which {100 * (1 - rule.delta):g} % of runs from θ_t reach that {part} {rule.goal}, with "
        f"{100 * rule.confidence:g} % interval, from the values reached; monotone: from successes alone.",
        soft_wrap=True,
    )
    for text in remarks(found):
        screen.print(text, soft_wrap=True)
    for text in caveats(found):
        screen.print(Text(f"prediction: {text}", style="dim"), soft_wrap=True)
    screen.print(f"{len(found.results)} runs, {found.seconds:.0f} s, D = {found.D:,}. Report:")


def run_report(options: Report) -> int:
    """``subspaces report``."""
    from subspaces.report.write import write_report

    if not options.dirs:
        raise ValueError("`dirs` must name at least one folder; got none. Such as: subspaces report runs/digits")
    page = write_report(list(options.dirs), options.out, level=options.level)
    print(json.dumps({"report": str(page)}) if options.json else page)
    return 0


def run_compare(options: Compare) -> int:
    """``subspaces compare``."""
    from subspaces.dimension.compare import compare, read_estimate

    found = compare(read_estimate(options.first, "first"), read_estimate(options.second, "second"))
    if options.json:
        high = found.high if found.high < float("inf") else None
        known = {"ratio": found.ratio, "low": found.low, "high": high, "differ": found.differ}
        print(json.dumps(known | {"notes": list(found.notes)}))
    else:
        print(found)
    return 0


def run_reproduce(options: Reproduce) -> int:
    """``subspaces reproduce``."""
    from subspaces.reproduce.display import ReproduceDisplay, rows_table, status_table
    from subspaces.reproduce.page import status
    from subspaces.reproduce.paths import Paths
    from subspaces.reproduce.run import redraw, reproduce

    _check_reproduce(options)
    screen, paths = Screen(width=WIDE), Paths.of(options.out, smoke=options.smoke)
    if options.list:
        print(json.dumps(status(paths))) if options.json else screen.print(status_table(paths))
        return 0
    if options.docs:
        print(redraw(paths))
        return 0
    if options.recipe is None:
        raise ValueError(
            "`recipe` must be given, and --list shows them; got none. Such as: subspaces reproduce li2018-toy --smoke"
        )
    with ReproduceDisplay(options.recipe) as display:
        rows = reproduce(
            options.recipe, series=options.series, everything=options.all, smoke=options.smoke,
            workers=options.workers, threads=options.threads, device=options.device, autocast=options.autocast,
            out=options.out, on_event=display.event, on_start=display.start,
        )  # fmt: skip
    if options.json:
        print(json.dumps(rows))
        return 0
    screen.print(rows_table(rows))
    print(paths.page)
    return 0


def _check_reproduce(options: Reproduce) -> None:
    """Options that contradict one another, and places that do not exist, before anything is done."""
    from subspaces.runs.settings import Compute
    from subspaces.runs.sweep import check_workers
    from subspaces.training.device import check_device

    check_workers(options.workers)
    check_folder("out", options.out)
    check_device(Compute(device=options.device, threads=options.threads).device)
    for asked, value in (("list", options.list), ("docs", options.docs)):
        given = {"recipe": options.recipe, "series": options.series, "all": options.all, "docs": options.docs}
        for name, other in given.items():
            if value and other and name != asked:
                raise ValueError(f"`{name}` must be left out with `{asked}`; got {shown(other)}. Remove one of them.")
    if options.series and options.all:
        raise ValueError(f"`all` must be left out with `series`; got {shown(options.series)}. Remove one of them.")


def run_list(options: List) -> int:
    """``subspaces list``."""
    from subspaces.cli.listing import LISTS

    head, rows = LISTS[options.what]()
    if options.json:
        print(json.dumps([dict(zip(head, row, strict=True)) for row in rows]))
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        justify = "right" if rows and isinstance(rows[0][head.index(name)], int) else "left"
        table.add_column(name, justify=justify, no_wrap=name == head[0])
    for row in rows:
        table.add_row(*[f"{cell:,}" if isinstance(cell, int) else "" if cell is None else str(cell) for cell in row])
    Screen(width=WIDE).print(table)
    return 0
