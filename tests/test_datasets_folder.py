"""Folders of images by class: what is read, in which order, and what is refused; a run and a subspace on them."""

import numpy as np
import pytest
import torch
from PIL import Image

from subspaces.datasets import DataOptions, get_dataset, load_data
from subspaces.datasets.folder import read_folder, read_image
from subspaces.runs.extract import extract
from subspaces.runs.run import Run
from subspaces.runs.store import run_once
from subspaces.runs.train import train
from subspaces.tasks import get_task

COLOURS = {"apple": (200, 30, 30), "leaf": (30, 180, 40), "sky": (40, 60, 220)}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Three classes of one colour each with noise, landscape format, in PNG and JPEG."""
    random = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 4)):
        for name, colour in COLOURS.items():
            (tmp_path / "fruit" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(np.array(colour) + random.normal(0, 15, (20, 30, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "fruit" / part / name / f"{i:02}.{'png' if i % 2 else 'JPEG'}")
    monkeypatch.setenv("SUBSPACES_DATA", str(tmp_path))
    return tmp_path


def test_images_and_labels_come_in_the_order_of_their_paths(root):
    arrays = read_folder("folder-fruit-8", root)
    assert arrays["train_x"].shape == (36, 3, 8, 8)
    assert arrays["test_y"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    means = arrays["train_x"].mean((2, 3))
    for label, colour in enumerate(COLOURS.values()):
        assert np.abs(means[arrays["train_y"] == label] - colour).max() < 12


def test_the_shorter_side_is_scaled_and_the_middle_kept(tmp_path):
    picture = np.zeros((10, 30, 3), dtype=np.uint8)
    picture[:, 10:20] = 255  # the middle third
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", 10) == 255).all()
    Image.fromarray(picture.transpose(1, 0, 2)).save(tmp_path / "b.png")
    assert (read_image(tmp_path / "b.png", 10) == 255).all()


def test_grey_and_transparent_images_become_rgb(tmp_path):
    Image.new("L", (6, 6), 100).save(tmp_path / "grey.png")
    Image.new("RGBA", (6, 6), (100, 100, 100, 0)).save(tmp_path / "clear.png")
    for name in ("grey", "clear"):
        assert (read_image(tmp_path / f"{name}.png", 4) == 100).all()


def test_data_are_normalised_by_the_constants_of_imagenet(root):
    assert get_dataset("folder-fruit-8").classes == 3
    data, raw = load_data("folder-fruit-8", DataOptions(subset=30)), read_folder("folder-fruit-8", root)
    assert data.train_x.shape == (30, 3, 8, 8)
    red = torch.from_numpy(raw["test_x"][:, 0]).float() / 255
    torch.testing.assert_close(data.test_x[:, 0], (red - 0.485) / 0.229, atol=1e-5, rtol=1e-5)


def test_any_network_trains_on_a_folder_and_in_what_was_learned_from_that(root, tmp_path):
    task = "folder-fruit-8@subspaces.models.resnet:resnet"
    config = Run.of(task, optimizer="sgd", lr=0.05, momentum=0.9, l2=0.0, batch_size=12, epochs=3, record="1")
    assert get_task(task).build_model(0)(torch.zeros(2, 3, 8, 8)).shape == (2, 3)
    run_once(config, tmp_path / "runs")
    found = extract(tmp_path / "runs" / config.key(), "dldr", 3)
    result = train(Run.of(task, subspace=str(found.basis), optimizer="pbfgs", epochs=2))
    assert result.trained == 3
    assert result.test_score > 0.6


def test_what_is_missing_or_damaged_is_named(root):
    with pytest.raises(FileNotFoundError, match="Lay them as train/CLASS/IMAGE"):
        get_dataset("folder-nothing-8")
    with pytest.raises(ValueError, match="Did you mean 'cifar10'"):
        get_dataset("cifar01")
    extra = root / "fruit" / "val" / "stone"
    extra.mkdir()
    with pytest.raises(ValueError, match="'stone' besides"):
        read_folder("folder-fruit-8", root)
    extra.rmdir()
    damaged = root / "fruit" / "val" / "sky" / "01.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"sky/01\.png cannot be read"):
        read_folder("folder-fruit-8", root)
    for image in (root / "fruit" / "val").glob("*/*"):
        image.unlink()
    with pytest.raises(FileNotFoundError, match="got none in the classes"):
        read_folder("folder-fruit-8", root)


def test_more_images_than_the_memory_holds_are_refused_before_any_is_read(root, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 100)  # 100 pages of 100 bytes
    with pytest.raises(ValueError, match="must fit into memory; 36 images of 8 × 8"):
        read_folder("folder-fruit-8", root)
