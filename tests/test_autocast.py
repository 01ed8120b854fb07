"""The warning before runs in bfloat16 on processors that only emulate it."""

import re
import warnings

import pytest

from subspaces.cli import main
from subspaces.cli.warnings import plain_warnings
from subspaces.runs.pools import LocalPool
from subspaces.runs.run import Run
from subspaces.runs.train import train
from subspaces.training import autocast
from subspaces.training.autocast import cpuinfo_has_bfloat16, multiplies_bfloat16, warn_of_slow_autocast

LOW = Run.of("digits-fc-8x1", d=5, epochs=1, subset=128, autocast=True)
TEXT = "`autocast` is slow here: this processor has no bfloat16 instructions.*6 to 10 times slower"


@pytest.fixture
def processor(monkeypatch):
    """Says what the processor can do, and forgets that the warning was given."""

    def set_to(able):
        monkeypatch.setattr(autocast, "multiplies_bfloat16", lambda: able)
        autocast._warn.cache_clear()

    yield set_to
    autocast._warn.cache_clear()


@pytest.mark.parametrize(
    ("text", "able"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512_bf16 rdpid\n", True),
        ("flags : fpu amx_bf16 amx_tile\n", True),
        ("flags : fpu avx2 avx512f avx512bw\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),
        ("processor : 0\nisa : rv64imafdc\n", None),
    ],
)
def test_flags_of_processors(text, able):
    assert cpuinfo_has_bfloat16(text) is able


def test_this_processor_can_be_asked():
    assert multiplies_bfloat16() in (True, False, None)


def test_one_warning_where_bfloat16_is_emulated(processor):
    processor(False)
    with pytest.warns(UserWarning, match=TEXT):
        train(LOW)
    train(LOW)  # a second warning would be an error here


@pytest.mark.parametrize("able", [True, None])
def test_no_warning_where_it_is_fast_or_unknown(processor, able):
    processor(able)
    warn_of_slow_autocast(True, "cpu")


def test_no_warning_without_autocast_or_beside_a_gpu(processor):
    processor(False)
    warn_of_slow_autocast(False, "cpu")
    warn_of_slow_autocast(True, "cuda")


def test_the_parent_of_workers_says_it(processor, tmp_path):
    processor(False)
    with LocalPool(tmp_path, 1, "fake_trainer:known_curve") as pool:
        with pytest.warns(UserWarning, match=TEXT):
            pool.submit(LOW)
        while not pool.wait(1.0):
            pass


def test_the_command_line_says_it_in_one_line(processor):
    processor(False)
    shown = []
    words = ["train", LOW.task, "--d", "5", "--epochs", "1", "--subset", "128", "--autocast"]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *said: shown.append(warnings.formatwarning(*said[:4]))
        with pytest.raises(SystemExit):
            main(words)
    (said,) = [text for text in shown if re.search(TEXT, text)]
    assert said.startswith("warning: `autocast` is slow here")
    assert said.count("\n") == 1


def test_help_says_for_which_processors_autocast_is(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "others are 6 to 10 times slower with it than without" in words


def test_debugging_shows_where_a_warning_comes_from(monkeypatch):
    with plain_warnings():
        assert warnings.formatwarning("a", UserWarning, "here.py", 3) == "warning: a\n"
        assert "here.py:3" in warnings.formatwarning("a", DeprecationWarning, "here.py", 3)
        monkeypatch.setenv("SUBSPACES_DEBUG", "1")
        assert "here.py:3" in warnings.formatwarning("a", UserWarning, "here.py", 3)
