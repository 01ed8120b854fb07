"""The examples run as they are, on the data that they make, and are short."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

import subspaces as ss

EXAMPLES = Path(__file__).parents[1] / "examples"
MEASURED = {
    "regression": ("r2", 200, 0.4),
    "texts": ("accuracy", 40, 0.8),
    "image_folder": ("accuracy", 40, 0.8),
    "segmentation": ("iou", 40, 0.6),
    "memorise": ("accuracy", 300, 0.9),
    "cartpole": ("share of 200 steps", 10, 0.8),
}
"""Its score, a d at which the task is learned, and a score that it reaches there."""
NEEDS = {"segmentation": [pytest.mark.scores], "cartpole": [pytest.mark.rl]}


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the data of the examples lie."""
    place = tmp_path_factory.mktemp("examples")
    load("make_data").main(place / "data")
    return place


@pytest.mark.parametrize("name", [pytest.param(name, marks=NEEDS.get(name, [])) for name in MEASURED])
def test_an_example_measures_its_task(name, folder, monkeypatch, capsys):
    """As a program, but for one run in this process at a d at which the task is learned."""
    score, d, least = MEASURED[name]
    found = []
    whole = ss.intrinsic_dimension

    def shorter(*arguments, **options):
        few = {"workers": 1, "progress": False, "max_runs": 1, "start": d, "baseline": 1.0}
        if name == "regression":
            few["epochs"] = 20
        found.append(whole(*arguments, **{**options, **few}))
        return found[0]

    monkeypatch.chdir(folder)
    monkeypatch.setattr(ss, "intrinsic_dimension", shorter, raising=False)
    source = (EXAMPLES / f"{name}.py").read_text()
    exec(compile(source, str(EXAMPLES / f"{name}.py"), "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.startswith("d_int90")
    (run,) = found[0].results
    assert run.score_name == score
    assert run.score >= least
    assert score in found[0].report.read_text()


def own_lines(source):
    """Lines of code: neither blank, nor of the docstring, nor imports, nor calls of the physics."""
    body = ast.parse(source).body
    rest = source.splitlines()[body[0].end_lineno :]
    return [line for line in rest if line.strip() and not re.match(r"import |from ", line) and "env" not in line]


@pytest.mark.parametrize("name", MEASURED)
def test_an_example_has_at_most_15_lines_of_its_own(name):
    assert 0 < len(own_lines((EXAMPLES / f"{name}.py").read_text())) <= 15


@pytest.mark.hf
def test_a_language_model_is_fine_tuned_in_trainer(capsys):
    assert load("finetune_trainer").main() > 0.7
    assert "layers of" in capsys.readouterr().out


@pytest.mark.hf
@pytest.mark.peft
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT's own
def test_an_adapter_learns_in_peft(capsys):
    before, after = load("peft_adapter").main()
    assert after < before - 0.4
    assert "trainable params: 200" in capsys.readouterr().out


@pytest.mark.hf
def test_two_hundred_customers_are_served_from_one_model(capsys):
    assert load("serve").main() < 1e-4
    assert "200 customers in " in capsys.readouterr().out


LANGUAGE = {"finetune_trainer", "peft_adapter", "serve"}


def test_every_example_is_tested():
    others = {"make_data", "train_digits", "replay"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*MEASURED, *LANGUAGE, *others}
    assert "example_make_data" not in sys.modules
