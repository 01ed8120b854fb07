"""Whether runs are batched unless told, and the progress of runs that are done in this process."""

import dataclasses
from types import SimpleNamespace

import fake_trainer
import pytest

from subspaces.measure import course
from subspaces.measure.dimension import measure_dimension
from subspaces.measure.dimension_data import Rule
from subspaces.runs.batches import BATCH, BatchedPool, batch_size
from subspaces.runs.pools import InlinePool
from subspaces.runs.sweep import run_many
from subspaces.train.config import TrainConfig
from subspaces.train.many import check_batch

CPU = [TrainConfig("digits-fc", d=d) for d in (5, 10, 20)]
CUDA = [dataclasses.replace(config, device="cuda:0") for config in CPU]


def test_batches_on_a_cuda_device_and_workers_on_a_cpu():
    assert batch_size(CUDA, "local", None) == BATCH == 8
    assert batch_size(CPU, "local", None) == 1
    assert batch_size([*CUDA, CPU[0]], "local", None) == 1
    assert batch_size(CUDA, "ray", None) == 1
    assert batch_size([], "local", None) == 1


def test_a_wish_wins():
    assert batch_size(CUDA, "local", 1) == 1
    assert batch_size(CPU, "local", 3) == 3


@pytest.mark.parametrize("fields", [{"autocast": True}, {"burn_in": 3}, {"blocks": "layer"}, {"augment": True}])
def test_what_cannot_be_batched_goes_to_workers(fields):
    assert batch_size([dataclasses.replace(CUDA[0], **fields)], "local", None) == 1


def test_augmentation_that_the_task_asks_for_is_refused_in_a_batch():
    """It would be left out without a word: `train_many` does not augment."""
    with pytest.raises(ValueError, match="`augment` must not be used with many runs at once; got True"):
        check_batch([TrainConfig("cifar10-resnet20", d=100)])
    check_batch([TrainConfig("cifar10-resnet20", d=100, augment=False)])


def test_a_measurement_on_a_cuda_device_is_batched_by_default(tmp_path, monkeypatch):
    sizes = []

    def open_pool(root, workers, launcher, trainer, size):
        sizes.append(size)
        return InlinePool(root, workers, trainer)

    monkeypatch.setattr(course, "open_pool", open_pool)
    rule = Rule(baseline="1.0", max_runs=10)
    for device in ("cuda", "cpu"):
        config = TrainConfig("digits-fc", device=device)
        measure_dimension(config, tmp_path / device, rule, trainer="fake_trainer:known_curve")
    assert sizes == [BATCH, 1]


def _progressing(config, *, folder, callbacks=()):
    """A run of four steps with two evaluations."""
    for callback in callbacks:
        callback.start(SimpleNamespace(step=0, total_steps=4))
        for step in (2, 4):
            callback.epoch(SimpleNamespace(step=step, total_steps=4), {})
    return fake_trainer.result_of(config, 0.5)


def test_a_batch_tells_its_progress_after_each_evaluation(tmp_path):
    def many(configs, *, folders, callbacks):
        return [_progressing(*parts[:1], folder=None, callbacks=parts[1]) for parts in zip(configs, callbacks)]  # noqa: B905

    seen = []
    with BatchedPool(tmp_path, 3, "fake_trainer:known_curve", many) as pool:
        pool.on_progress = lambda event: seen.append((event.kind, event.config.d, event.part))
        for config in CPU:
            pool.submit(config)
        done = pool.wait(0.0)
    assert seen == [("progress", d, part) for d in (5, 10, 20) for part in (0.0, 0.5, 1.0)]
    assert [event.config for event in done] == CPU


def test_a_real_batch_tells_its_progress(tmp_path):
    seen = []
    configs = [TrainConfig("digits-fc-16x1", d=d, seed_model=d, epochs=2, subset=256) for d in (5, 9)]
    run_many(configs, tmp_path, batched=2, on_event=lambda event: seen.append((event.kind, event.config.d, event.part)))
    parts = [(part, d) for kind, d, part in seen if kind == "progress"]
    assert sorted(parts) == [(part, d) for part in (0.0, 0.5, 1.0) for d in (5, 9)]
    assert [part for part, _ in parts] == sorted(part for part, _ in parts)  # all runs of a batch go on together
    assert [kind for kind, _, _ in seen[-2:]] == ["done", "done"]


def test_single_runs_of_this_process_tell_their_progress(tmp_path):
    seen = []
    run_many(CPU[:1], tmp_path, 1, on_event=lambda event: seen.append(event.kind), trainer=f"{__name__}:_progressing")
    assert seen == ["progress"] * 3 + ["done"]
