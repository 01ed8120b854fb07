"""Every Python snippet of the pages is run, in the order of its page, or says why not.

Snippets of a page share their names. What they take for granted (data, a model, stored runs) comes from PRELUDES by the
number of the snippet. One that cannot be run here stands after a line `<!-- not run: REASON -->`; a page whose snippets
are no programs has one line `<!-- snippets not run: REASON -->`. Blocks with a name after `python` are scripts that
`tests/loops/test_page.py` runs in processes of their own.
"""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from clean_registry import clean_registry

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
SNIPPET = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\n)?```python(?P<name>[^\n]*)\n(?P<code>.*?)```", re.DOTALL
)
WHOLE_PAGE = re.compile(r"<!-- snippets not run: ([^>]+) -->")
NOT_RUN = {"README.md": 2, "control.md": 2, "design.md": 9, "language-models.md": 2, "learned-subspaces.md": 1}
"""How many snippets of each page are not run."""

_SMALL = """
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))
x = torch.randn(60, 8)
y = (x.sum(1) > 0).long()
"""
PRELUDES = {
    "README.md": {
        0: _SMALL + "torch.manual_seed(1)\nfresh_model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))\n"
        "torch.manual_seed(1)\n",
    },
    "extending.md": {
        0: "from subspaces.projections import OneHot as Library\nclass Mine(Library):\n    pass\n",
        1: _SMALL + "from subspaces import Subspace\n",
        2: "def build(trained, lr, momentum=0.0):\n    return torch.optim.SGD([trained.coordinates], lr, momentum)\n",
    },
    "learned-subspaces.md": {
        1: "states = [dict(recorder[i]) for i in range(len(recorder))]\n",
        2: "subspace.remove()\nbatches = x.split(256)\n",
        3: "loss_fn, basis = nn.functional.cross_entropy, dldr(recorder, d=5)\nx, y = x[:256], y[:256]\n"
        "subspace = ss.Subspace(model, projection=basis)\n",
        4: "fresh_model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))\n",
    },
    "phase-transition.md": {
        0: "import random\nrandom.seed(0)\n"
        "stored = [(d, s, 0, [2.0 / (1 + i * d / 400) * random.uniform(0.9, 1.1) for i in range(60)])\n"
        "          for d in (4, 16, 64, 256) for s in range(3)]\n",
        1: _SMALL + "loss_fn = nn.functional.cross_entropy\n",
    },
}  # fmt: skip


class Snippet(NamedTuple):
    code: str
    line: int


def snippets(page: str) -> tuple[list[Snippet], int]:
    """Those of a page that are run, and how many are not."""
    text = PAGES[page].read_text()
    found = [match for match in SNIPPET.finditer(text) if not match["name"].strip()]
    if WHOLE_PAGE.search(text):
        return [], len(found)
    run = [Snippet(m["code"], text[: m.start("code")].count("\n")) for m in found if not m["reason"]]
    return run, len(found) - len(run)


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page)[0]])
def test_the_snippets_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__page__"}
    with clean_registry(lambda name: False):
        for number, (code, line) in enumerate(snippets(page)[0]):
            exec(compile(PRELUDES.get(page, {}).get(number, ""), f"prelude {number} of {page}", "exec"), names)
            exec(compile("\n" * line + code, str(PAGES[page]), "exec"), names)


def test_what_is_not_run_is_known():
    assert {page: count for page in PAGES if (count := snippets(page)[1])} == NOT_RUN


def test_every_prelude_belongs_to_a_snippet():
    for page, preludes in PRELUDES.items():
        assert set(preludes) <= set(range(len(snippets(page)[0]))), page


def test_a_snippet_that_fails_is_found():
    text = "<!-- not run: no -->\n```python\n1 / 0\n```\n\n```python\nx = 1\n```\n\n```python script\npass\n```\n"
    found = [(m["reason"], m["name"], m["code"]) for m in SNIPPET.finditer(text)]
    assert found == [("no", "", "1 / 0\n"), (None, "", "x = 1\n"), (None, " script", "pass\n")]
