"""The Triton kernels: by Triton's interpreter on CPU tensors, compiled for GPUs that are not here, and on a GPU.

Each test works in a process of its own, for triton must be told of the interpreter before it is first imported: the
sections are those of `triton_cases`. Without triton only the first tests are there.
"""

import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from triton_cases import CASES

from subspaces.kernels import triton_library
from subspaces.projections.backends import triton as triton_backend
from subspaces.projections.hadamard import Hadamard

TRITON = importlib.util.find_spec("triton") is not None
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def found_on(device, section):
    environment = {**os.environ, "TRITON_INTERPRET": str(int(device == "cpu")), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("triton_cases.py")), device, section]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_says_why_not():
    if triton_library.available():
        assert triton_library.why_not() == ""
    else:
        assert triton_library.why_not().startswith("the Triton kernels")
        with pytest.raises(RuntimeError, match="Triton kernels must be available"):
            triton_library.library()


@pytest.mark.parametrize(
    ("version", "old"), [("3.2.0", True), ("3.3.1", True), ("3.4.0", False), ("3.10.0+git1", False)]
)
def test_triton_before_3_4_is_refused(version, old):
    assert triton_library.too_old(version) == old


def test_an_old_triton_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, "triton", types.SimpleNamespace(__version__="3.3.1"))
    kernels, reason = triton_library._load.__wrapped__()
    assert kernels is None
    assert reason == "the Triton kernels need triton 3.4 or later, got 3.3.1; torch 2.8 and later bring it"


def test_cpu_tensors_are_left_to_other_kernels():
    assert not triton_library.takes(torch.zeros(3))
    assert triton_backend._form(Hadamard(3, 20, block=8192)) is None


if TRITON:

    @pytest.mark.parametrize("device", DEVICES)
    def test_kernels_agree_with_the_projection(device):
        wrong = {}
        for case, found in zip(CASES, found_on(device, "cases"), strict=True):
            equal = found["deterministic"] and found["onehot_exact"]
            if not equal or not max(found["lift"], found["added"], found["fold"]) <= 1:  # NaN is wrong too
                wrong[case] = found
        assert wrong == {}

    def test_kernels_compile_without_a_gpu_and_touch_memory_16_bytes_at_a_time():
        found = found_on("none", "compiled")
        names = ["lift_kernel", "lift_kernel", "lift_kernel", "fold_narrow_kernel", "fold_wide_kernel"]
        assert [name for name, *_ in found] == names
        assert all(size > 1000 for *_, size, _ in found)
        assert [wide for *_, wide in found] == [4, 8, 4, 8, 4]

    @pytest.mark.parametrize("device", DEVICES)
    def test_tensors_of_one_dtype_are_one_launch_whatever_blocks_they_share(device):
        found = found_on(device, "shared")
        assert found["lift"] < 1
        assert found["left"] == 0
        assert found["fold"] < 1e-5
        assert found["launches"] == [2, 2]  # two dtypes

    @pytest.mark.parametrize("device", DEVICES)
    def test_one_odd_tensor_does_not_send_the_others_to_the_reference(device):
        found = found_on(device, "odd")
        assert found["lift"] < 2e-6
        assert found["fold"] < 2e-5
        assert len(found["launches"]) <= 4

    @pytest.mark.parametrize("device", DEVICES)
    def test_projection_uses_the_kernels(device):
        found = found_on(device, "projection")
        assert found["used"][:3] == ["lift_kernel", "fold_narrow_kernel", "lift_kernel"]
        assert set(found["used"][3:]) == {"lift_kernel", "fold_narrow_kernel"}
        assert max(found["lift"], found["map"]) < 2e-6
        assert max(found["fold"], found["adjoint"]) < 2e-5

    @pytest.mark.parametrize("device", DEVICES)
    def test_operators_use_the_kernels(device):
        found = found_on(device, "operators")
        assert max(wrong for wrong, _ in found.values()) < 1e-5
        lift, both = ["lift_kernel"], ["fold_narrow_kernel", "lift_kernel"]
        used = {"vmap": lift, "jvp": lift, "grad": both, "functional": lift, "compiled": both}
        assert {name: launched for name, (_, launched) in found.items()} == used

    @pytest.mark.parametrize("device", DEVICES)
    def test_each_block_is_one_launch_for_all_its_tensors(device):
        found = found_on(device, "blocks")
        assert found["lift"] < 2e-6
        assert found["fold"] < 2e-5
        assert found["launches"] == 12  # three blocks, lift and adjoint, two steps

    @pytest.mark.parametrize("device", DEVICES)
    def test_models_that_differ_by_their_seeds_are_one_launch(device):
        for size, (wrong, launches) in found_on(device, "several").items():
            assert wrong < 2e-5, size
            assert launches == ["lift_kernel", "fold_wide_kernel" if size == "wide" else "fold_narrow_kernel"]

    @pytest.mark.parametrize("device", DEVICES)
    def test_a_kernel_that_does_not_start_is_said_once_and_the_reference_works(device):
        found = found_on(device, "failing")
        assert (
            found["asked"] == 2
        )  # with an origin, and by the reference for the rows alone; the second step asks no more
        assert len(found["said"]) == 1
        assert "lift_kernel could not be started (RuntimeError: out of resource: shared memory)" in found["said"][0]
        assert found["lift"] < 2e-6

    @pytest.mark.parametrize("device", DEVICES)
    def test_bad_input(device):
        said = found_on(device, "errors")
        words = ["`block` must be at most 4096", "`starts` must leave room", "`starts` must keep tensors apart"]
        words += ["`origins` must have the shapes", "TypeError: `out` must be", "`tensors` must be 1 for each"]
        for sentence, word in zip(said, words, strict=True):
            assert word in sentence
