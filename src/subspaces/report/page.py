"""The page of a report: plain HTML with its style inside, for screens and for paper; and what a wing adds to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Protocol

from subspaces.report.tables import cards

Card = tuple[str, str, str]
"""Name, value and note, as plain text."""


@dataclass(frozen=True)
class Part:
    """What a wing adds to a page: HTML, except for title and cards."""

    title: str
    lead: str
    cards: Sequence[Card]
    figures: str
    tables: str
    again: str
    """What is needed to do it again: commands, settings, machines."""


class Section(Protocol):
    """The module of a wing that makes its part of a page."""

    def claims(self, folder: Path) -> bool:
        """Whether the wing has something to say about a folder."""
        ...

    def takes_level(self, folders: Sequence[Path], level: float) -> bool:
        """Whether something of its part about these folders follows the level."""
        ...

    def section(self, folders: Sequence[Path], drawings: Path | None, *, level: float) -> Part | None:
        """The part about the folders that it claims.

        Args:
            folders: all of them; several are compared.
            drawings: where the files of the figures go. None where another wing draws the figures: the part then only
                lists runs.
            level: share of the baseline that defines d_int, where no search says it.

        Returns:
            The part; None where there is nothing after all.
        """
        ...


def render(heads: Sequence[Part], parts: Sequence[Part]) -> str:
    """The page of some parts.

    Args:
        heads: the parts with figures; the last one gives title, lead and cards.
        parts: all of them, whose tables follow the figures.
    """
    head = heads[-1]
    return Template(PAGE).substitute(
        title=escape(head.title),
        lead=head.lead,
        cards=cards(head.cards),
        figures="".join(part.figures for part in heads),
        tables="".join(part.tables for part in parts),
        again="".join(part.again for part in parts),
    )


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { --ink: #1c2430; --muted: #667085; --line: #e3e7ee; --soft: #f6f8fb; --accent: #2563a8; }
* { box-sizing: border-box; }
html { color-scheme: light; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 40px 28px 64px; max-width: 960px; background: #fff; color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
h1 { font-size: 28px; line-height: 1.2; letter-spacing: -.01em; margin: 0 0 10px; }
h2 { font-size: 18px; margin: 40px 0 10px; }
h3 { font-size: 15px; margin: 24px 0 8px; }
p.lead { font-size: 17px; color: #3a4454; margin: 0 0 24px; max-width: 48em; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 12px; margin: 0 0 28px; }
.cards:empty { display: none; }
.card { background: var(--soft); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }
.card .name { font-size: 12px; color: var(--muted); }
.card .value { font-size: 24px; font-weight: 650; letter-spacing: -.01em; font-variant-numeric: tabular-nums; }
.card:first-child .value { color: var(--accent); }
.card .note { font-size: 12px; color: var(--muted); line-height: 1.35; }
figure { margin: 0 0 26px; break-inside: avoid; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { font-size: 13px; color: var(--muted); margin-top: 4px; max-width: 60em; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--muted); border-bottom: 1.5px solid #c5ccd8; }
table.first-left td:first-child, table.first-left th:first-child,
table.last-left td:last-child, table.last-left th:last-child,
table.pairs td, table.pairs th { text-align: left; }
table.last-left td:last-child { font: 11.5px ui-monospace, "DejaVu Sans Mono", monospace; color: var(--muted); }
table.pairs td { white-space: normal; overflow-wrap: anywhere; }
table.pairs td:first-child { color: var(--muted); white-space: nowrap; }
.scroll { overflow-x: auto; }
details { margin-top: 36px; }
summary { font-size: 18px; font-weight: 700; cursor: pointer; margin-bottom: 10px; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; font-size: 13px;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.columns { display: grid; grid-template-columns: 1fr 1fr; gap: 28px; align-items: start; }
.columns > * { min-width: 0; }
footer { margin-top: 48px; font-size: 12px; color: var(--muted); }
@media screen and (max-width: 700px) {
  .columns { grid-template-columns: 1fr; gap: 0; }
  body { padding: 24px 14px; }
  .drawing { overflow-x: auto; }
  .drawing svg { min-width: 600px; }
}
@media print {
  @page { size: A4; margin: 15mm 14mm; }
  body { padding: 0; max-width: none; font-size: 10.5pt; }
  .cards { grid-template-columns: repeat(auto-fit, minmax(30mm, 1fr)); gap: 2mm; }
  .card { padding: 6pt 7pt; }
  .card .value { font-size: 15pt; }
  .card .note, .card .name { font-size: 7.5pt; }
  h2, summary, h3, pre { break-after: avoid; }
  .columns { break-inside: avoid; }
  .scroll, .drawing { overflow: visible; }
  tr { break-inside: avoid; }
  thead { display: table-header-group; }
  table { font-size: 8.5pt; }
  th, td { padding: 2.5pt 5pt; }
  .card { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  summary { list-style: none; }
}
</style>
</head>
<body>
<h1>$title</h1>
<p class="lead">$lead</p>
<div class="cards">$cards</div>
$figures
$tables
<h2>To do it again</h2>
$again
<footer>Scores are those of the last epoch, never of the best one: the validation part chooses, the test part is only
reported. Made by subspaces from result rows alone.</footer>
</body>
</html>
"""
