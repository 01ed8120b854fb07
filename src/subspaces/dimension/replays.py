"""What a run left to look at: an episode of a policy as a GIF, beside the file of its d numbers."""

import base64
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from subspaces.dimension.series import RunSeries
from subspaces.report.tables import bytes_text
from subspaces.runs.folders import run_folders

GIF, POLICY = "replay.gif", "subspace.safetensors"


def replay(series: RunSeries, folders: Sequence[Path], page: Path | None) -> str:
    """The replay of the run near d_int that scored best, inside the page; nothing where runs leave none.

    Args:
        series: with its runs.
        folders: where they lie.
        page: folder of the page, to which links are relative.
    """
    found = series.estimate
    wanted = found.d_int if found is not None and found.d_int else None
    rows = [row for row in series.rows if row["score"] is not None]
    if wanted is not None:
        near = [row for row in rows if wanted <= row["config"]["d"] <= 2 * wanted]
        rows = near or rows
    for row in sorted(rows, key=lambda row: (-row["score"], row["config"]["d"])):
        for folder in run_folders(folders, row["key"]):
            if (folder / GIF).is_file():
                return _figure(row["config"]["d"], row["score"], folder, page)
    return ""


def _figure(d: int, score: float, folder: Path, page: Path | None) -> str:
    inside = base64.b64encode((folder / GIF).read_bytes()).decode()
    links = []
    for name, what in ((GIF, "the replay"), (POLICY, "the policy")):
        path = folder / name
        if path.is_file():
            href = Path(os.path.relpath(path, page)).as_posix() if page is not None else path.as_posix()
            links.append(f'<a href="{escape(href)}">{what}</a> ({bytes_text(path.stat().st_size)})')
    text = f"One episode of a policy of {d:,} numbers, which scored {score:.4g}: {', '.join(links)}."
    return (
        f'<figure><img alt="replay of a policy of {d} numbers" src="data:image/gif;base64,{inside}">'
        f"<figcaption>{text}</figcaption></figure>"
    )
