"""The style and the files of the figures of reproductions."""

import io
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from subspaces.files import KEPT, atomic_write
from subspaces.report.figures import STYLE


def style() -> AbstractContextManager[None]:
    """The style of pages with smaller titles, for many panels."""
    return matplotlib.rc_context({**STYLE, "axes.titlesize": 10})


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white", dpi=130, metadata={"Software": None})
    atomic_write(path, buffer.getvalue(), kept=KEPT)
