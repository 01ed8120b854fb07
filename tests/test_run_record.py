"""The nested record of a run, its flat words, and the names that version 1 gave."""

import json
import re
from pathlib import Path

import fake_trainer
import pytest
import safetensors.torch
from training import Interrupt, curves

from subspaces.cli.run_options import PARTS
from subspaces.runs.fingerprint import fingerprint
from subspaces.runs.run import WORDS, Run
from subspaces.runs.settings import Compute, DataSettings, OptimizerSettings, Recording, Seeds, SubspaceSettings
from subspaces.runs.store import folder_of, load_result, run_once, status
from subspaces.runs.sweep import run_many
from subspaces.runs.train import train
from subspaces.training.state import read_state

GOLDEN = json.loads((Path(__file__).parent / "golden" / "runs_v1.json").read_text())
LATER = ("record_ema", "space", "rank", "scale_of")
"""Words that version 1 did not have, at the end; without them its runs are as they were."""
OWN = Run.of("digits@subspaces.models:fc", d=20, epochs=2, lr=0.003, subset=320)

# ---- version 1


@pytest.mark.parametrize("name", GOLDEN)
def test_runs_of_version_1_are_read_and_keep_their_names(name):
    old = GOLDEN[name]
    run = Run.from_dict(old["config"])
    assert run.to_dict() == old["config"] | dict.fromkeys(LATER)
    assert list(run.to_dict()) == [*old["config"], *LATER] == list(WORDS)
    assert json.loads(json.dumps(run.identity())) == old["identity"]
    assert run.former_key() == old["key"]
    assert run.key() == old["key"].replace("@", "_").replace(":", "_")


def test_tasks_of_version_1_are_those_of_today():
    for old in GOLDEN.values():
        assert fingerprint(Run.from_dict(old["config"])) == old["fingerprint"]


def test_every_word_is_a_field_and_every_field_a_word():
    fields = [(part, name) for part, cls in PARTS.items() for name in cls.__dataclass_fields__]
    assert sorted(WORDS.values()) == sorted([("", "task"), *fields])


def test_what_the_parts_of_flat_runs_are():
    seeds = Seeds(projection=4, model=3, data=5, split=6)
    assert Run.from_dict(GOLDEN["seeds"]["config"]) == Run(
        "digits-fc", SubspaceSettings(d=50), OptimizerSettings(epochs=2), DataSettings(), seeds, Recording(), Compute()
    )
    settings = OptimizerSettings(name="sgd", lr=0.1, momentum=0.9, schedule="step", epochs=2)
    assert Run.from_dict(GOLDEN["sgd"]["config"]) == Run("digits-fc", SubspaceSettings(d=50), settings)
    assert Run.from_dict(GOLDEN["direct"]["config"]) == Run("digits-fc", optimizer=OptimizerSettings(epochs=2))


# ---- words


def test_direct_training_has_no_subspace():
    run = Run.of("toy", d=5, lr=1)
    assert run.but(d=None) == Run.of("toy", lr=1.0) == Run("toy", SubspaceSettings(), OptimizerSettings(lr=1.0))
    assert run.but(d=None).subspace is None
    search = run.but(d=None, projection="sparse")
    assert search.subspace == SubspaceSettings(projection="sparse")
    assert search.d is None
    assert search.but(d=7).space.projection == "sparse"


def test_a_shorter_run_keeps_the_milestones_that_it_reaches():
    run = Run.of("toy", schedule="step", milestones=(2, 6), epochs=9)
    assert run.shortened(7) == run.but(epochs=7)
    assert run.shortened(6) == run.but(epochs=6, milestones=(2,))
    assert run.shortened(2) == run.but(epochs=2, milestones=(), schedule="constant")


def test_words_that_a_part_names_otherwise():
    run = Run.of("toy", subspace="basis.safetensors", optimizer="sgd", record="epoch", record_trace=True, seed_split=2)
    assert run.space.file == run.value("subspace") == "basis.safetensors"
    assert run.optimizer.name == run.value("optimizer") == "sgd"
    assert run.record == Recording(every="epoch", trace=True)
    assert run.seeds.split == run.value("seed_split") == 2
    assert run.but(task="digits-fc", record=None).task == "digits-fc"


def test_a_mistyped_word_is_told_with_the_nearest_one():
    with pytest.raises(ValueError, match=r"`epoch` must be left out; got 5.*Did you mean `epochs`"):
        Run.of("toy", epoch=5)
    with pytest.raises(ValueError, match=r"`projektion` must .* Did you mean `projection`"):
        Run.of("toy").but(projektion="sparse")


def test_parts_check_themselves_in_the_words_that_were_typed():
    with pytest.raises(ValueError, match="`seed_model` must be between 0 and 2\\*\\*64 - 1; got -1"):
        Seeds(model=-1)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1; got 0"):
        OptimizerSettings(batch_size=0)
    with pytest.raises(ValueError, match="`record` must be 'epoch' or a number of steps"):
        Recording(every="0")


# ---- folders


def test_a_folder_is_named_in_letters_that_every_system_takes():
    for task in ("digits@my.nets:build", "a/b\\c d", "vit=0.5"):
        assert re.fullmatch(r"[A-Za-z0-9._-]+", Run.of(task).key())
    assert Run.of("a:b").key() != Run.of("a@b").key()


def test_a_run_under_its_former_name_is_found(tmp_path):
    former = tmp_path / OWN.former_key()
    made = run_once(OWN, tmp_path, trainer=fake_trainer.known_curve)
    (tmp_path / OWN.key()).rename(former)
    assert folder_of(tmp_path, OWN) == former
    assert status(OWN, tmp_path) == "done"
    assert run_many([OWN], tmp_path, 1, trainer="fake_trainer:fails") == [made]
    assert load_result(folder_of(tmp_path, OWN)) == made
    assert not (tmp_path / OWN.key()).exists()


def test_a_run_begun_under_its_former_name_goes_on(tmp_path):
    former = tmp_path / OWN.former_key()
    with pytest.raises(KeyboardInterrupt):
        train(OWN, folder=former, callbacks=[Interrupt(3)])
    kept = read_state(former)
    assert kept is not None
    tensors, scalars = kept
    scalars["key"] = OWN.former_key()  # as version 1 wrote it
    as_it_was = safetensors.torch.save(tensors, {"state": json.dumps(scalars)})
    (former / "state.safetensors").write_bytes(as_it_was)
    taken = []
    result = run_once(OWN, tmp_path, callbacks=[Counting(taken)])
    assert result is not None
    assert taken[0] == 4
    assert curves(result) == curves(train(OWN))


class Counting(Interrupt):
    """Notes the steps and interrupts none."""

    def __init__(self, taken: list[int]) -> None:
        super().__init__(-1)
        self.taken = taken

    def step(self, state, loss) -> None:
        self.taken.append(state.step)
