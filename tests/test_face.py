"""What `import subspaces as ss` gives."""

import subprocess
import sys

import pytest

import subspaces as ss


@pytest.mark.parametrize("name", ss.__all__)
def test_every_name_of_the_face_is_there(name):
    assert getattr(ss, name) is not None
    assert name in dir(ss)


@pytest.mark.parametrize("name", ss.learned.__all__)
def test_every_name_of_learned_is_there(name):
    assert getattr(ss.learned, name) is not None


def test_rooms_need_no_import_of_their_own_and_the_face_waits_for_nothing():
    code = (
        "import sys, subspaces as ss; assert 'torch' not in sys.modules; "
        "print(ss.optim.PBFGS.__name__, ss.learned.dldr.__name__, ss.tasks.Task.__name__)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["PBFGS", "dldr", "Task"]


def test_a_mistyped_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Subspce'"):
        ss.Subspce  # noqa: B018
