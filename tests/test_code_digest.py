"""What a callable does, as a digest: changed code is seen, a changed comment is not."""

import functools
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from subspaces.tasks.code import code_digest

BASE = '''
"""A task."""
import torch
from torch import nn

SCALE = 2.0


def helper(x):
    return SCALE * x


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layer = nn.Linear(3, width)

    def forward(self, x):
        return helper(self.layer(x))


def loss(outputs, targets):
    """Mean square."""
    # as in the paper
    return ((outputs - targets) ** 2).mean()
'''


def _digests(tmp_path, source: str) -> list[str]:
    (tmp_path / "own_task.py").write_text(source)
    code = "import own_task as o; from subspaces.tasks.code import code_digest as c; print(c(o.loss), c(o.Net))"
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    return told.stdout.split()


def test_comments_docstrings_and_layout_do_not_count(tmp_path):
    changed = BASE.replace("# as in the paper", "# other words").replace('"""Mean square."""', '"""Words."""\n')
    assert _digests(tmp_path, BASE) == _digests(tmp_path, changed)


@pytest.mark.parametrize(
    ("old", "new", "sees"),
    [
        ("** 2", ".abs()", [True, False]),
        ("width=4", "width=5", [False, True]),
        ("SCALE = 2.0", "SCALE = 3.0", [False, True]),  # a global that a function of the module uses
        ("SCALE * x", "SCALE + x", [False, True]),  # a function that the class calls
    ],
)
def test_what_changes_the_numbers_changes_the_digest(tmp_path, old, new, sees):
    before, after = _digests(tmp_path, BASE), _digests(tmp_path, BASE.replace(old, new))
    assert [a != b for a, b in zip(before, after, strict=True)] == sees


def test_closed_over_values_tensors_and_arguments_count():
    def made(value):
        return lambda x: x * value

    assert code_digest(made(1.0)) == code_digest(made(1.0))
    assert code_digest(made(1.0)) != code_digest(made(2.0))
    assert code_digest(made(torch.zeros(3))) != code_digest(made(torch.ones(3)))
    assert code_digest(functools.partial(max, 1)) != code_digest(functools.partial(max, 2))
    assert code_digest(nn.Linear) != code_digest(nn.Conv2d)
    assert code_digest(lambda: nn.Linear(3, 1)) != code_digest(lambda: nn.Linear(3, 2))


def test_the_digest_is_the_same_in_every_process(tmp_path):
    code = (
        "import torch; from subspaces.tasks.code import code_digest as c; "
        "print(c(lambda x: x in {'a', 'bb', 'ccc'}), c({'words': {'u', 'v', 'w'}}), c(torch.no_grad()(c)))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1


def test_every_helper_of_many_counts():
    def made(changed):
        """A function of 20 helpers, of which one has another default."""
        helpers = [lambda x, k=float(i == changed): x + k for i in range(20)]
        return lambda x: sum(helper(x) for helper in helpers)

    assert len({code_digest(made(changed)) for changed in range(20)}) == 20


def test_things_that_refer_to_themselves_end():
    ring: list = [1]
    ring.append(ring)

    def recursive(n):
        return recursive(n - 1) if n else 0

    assert len(code_digest(ring)) == len(code_digest(recursive)) == 16
