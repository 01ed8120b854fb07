"""The C kernels built for aarch64 and run under emulation, against the same calls on this machine.

`tests/native_cross/driver.c` calls the whole C interface: every kind, float32 and bfloat16, whole tensors and pieces
with gaps, one thread and three (which it compares itself). It needs `aarch64-linux-gnu-gcc` and `qemu-aarch64` (Debian:
gcc-aarch64-linux-gnu, qemu-user-static) and is not collected without them. An emulator says what the instructions
compute; nothing of their speed, and nothing of the weaker order in which other cores see a real processor's writes.
"""

import ast
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from subspaces.kernels import native_library as native

pytestmark = pytest.mark.cross

HERE = Path(__file__).parent
NATIVE = HERE.parent / "src" / "subspaces" / "kernels" / "native"
TYPES = {"u2": "<u2", "u4": "<u4", "i1": "i1", "i4": "<i4", "i8": "<i8", "f4": "<f4", "b2": "<u2"}


@dataclass(frozen=True)
class Array:
    """One result of the driver; `type` is f4, b2 (the bits of bfloat16) or an integer type."""

    name: str
    type: str
    values: np.ndarray

    @property
    def exact(self) -> bool:
        return self.type not in ("f4", "b2")

    def wide(self) -> np.ndarray:
        """The numbers as float64."""
        if self.type == "b2":
            return (self.values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return self.values.astype(np.float64)


def compiler_flags() -> list[str]:
    """Those that setup.py builds the package with."""
    text = (HERE.parent / "setup.py").read_text()
    return ast.literal_eval(re.search(r"^FLAGS = (\[.*\])$", text, re.M).group(1))


def build(compiler: str, output: Path, *options: str) -> None:
    sources = [HERE / "native_cross" / "driver.c", *map(Path, options)]
    flags = [*compiler_flags(), "-Wall", "-Wextra", "-Werror", f"-I{NATIVE}"]
    subprocess.run([compiler, *flags, "-o", output, *sources, "-lm"], check=True)


def call(command: list, folder: Path, isa: str = "") -> tuple[str, list[Array]]:
    """Run the driver; the instruction set that it used, and its results."""
    environment = {**os.environ, "SUBSPACES_NATIVE_ISA": isa}
    run = subprocess.run([*command, folder / "results"], env=environment, capture_output=True, text=True, check=True)
    (_, isa, _), *lines = (line.split() for line in run.stdout.splitlines())
    raw, arrays, at = (folder / "results").read_bytes(), [], 0
    for name, kind, count in lines:
        arrays.append(Array(name, kind, np.frombuffer(raw, TYPES[kind], int(count), at)))
        at += arrays[-1].values.nbytes
    assert at == len(raw)
    return isa, arrays


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> dict[str, list[Array]]:
    """Results of the package's own library on this machine, for the vectors of four floats and the best ones."""
    folder = tmp_path_factory.mktemp("here")
    library = Path(native.library_path())
    build("cc", folder / "driver", str(library), f"-Wl,-rpath,{library.parent}")
    return {isa: call([folder / "driver"], folder, isa)[1] for isa in ("generic", native.isa())}


def there(folder: Path, *options: str) -> list[Array]:
    """Results of a build for aarch64."""
    sources = [str(path) for path in sorted(NATIVE.glob("*.c"))]
    build("aarch64-linux-gnu-gcc", folder / "driver", "-static", *options, *sources)
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    isa, arrays = call([emulator, folder / "driver"], folder)
    assert isa == "neon"
    return arrays


def assert_close(got: list[Array], wanted: list[Array]) -> None:
    """Integers alike, float32 to rounding, bfloat16 to rounding and at most a neighbour of it."""
    assert [(a.name, a.type, len(a.values)) for a in got] == [(b.name, b.type, len(b.values)) for b in wanted]
    for a, b in zip(got, wanted, strict=True):
        if a.exact:
            assert np.array_equal(a.values, b.values), a.name
            continue
        tolerance = 1e-5 * max(1.0, np.abs(b.wide()).max(initial=0.0))
        if a.type == "b2":
            tolerance = tolerance + 2.0**-7 * np.abs(b.wide())
        assert (np.abs(a.wide() - b.wide()) <= tolerance).all(), a.name


def test_neon_gives_the_bits_of_x86(here, tmp_path):
    """The same C code on the same vectors of four: nothing may differ, adjoints included."""
    got = there(tmp_path)
    for a, b in zip(got, here["generic"], strict=True):
        assert (a.name, a.type) == (b.name, b.type)
        assert np.array_equal(a.values.view(np.uint8), b.values.view(np.uint8)), a.name
    for wanted in here.values():
        assert_close(got, wanted)
    rounded, before = (next(a.values for a in got if a.name == name) for name in ("rounded", "before"))
    numbers = torch.from_numpy(before.view(np.float32).copy())
    truth = numbers.bfloat16().view(torch.uint16).numpy()  # whose NaNs differ from one of its loops to the other
    assert np.array_equal(rounded, np.where(numbers.isnan().numpy(), 0x7FC0, truth))
