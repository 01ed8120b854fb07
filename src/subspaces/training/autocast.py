"""Whether bfloat16 is fast where a run is to be done, and the warning where it is not."""

import functools
import platform
import subprocess
import warnings
from pathlib import Path

FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Names in /proc/cpuinfo of instructions that multiply bfloat16: AVX-512 BF16, AMX, and those of ARM."""


@functools.cache
def multiplies_bfloat16() -> bool | None:
    """Whether this machine's processor has instructions for bfloat16; None where that cannot be told."""
    try:
        if platform.system() == "Darwin":
            name = "hw.optional.arm.FEAT_BF16"
            told = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5)
            return told.stdout.strip() == "1"
        return cpuinfo_has_bfloat16(Path("/proc/cpuinfo").read_text())
    except (OSError, subprocess.SubprocessError):
        return None


def cpuinfo_has_bfloat16(text: str) -> bool | None:
    """The same from the text of /proc/cpuinfo; None if it names no flags."""
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return bool(FLAGS & set(lines[0].partition(":")[2].split())) if lines else None


def warn_of_slow_autocast(autocast: bool, device: str) -> None:
    """One warning per process, before the first run in bfloat16 on a processor that has to emulate it."""
    if autocast and device == "cpu" and multiplies_bfloat16() is False:
        _warn()


@functools.cache
def _warn() -> None:
    warnings.warn(
        "`autocast` is slow here: this processor has no bfloat16 instructions and emulates them, 6 to 10 times slower "
        "than float32 (measured on Conv-2). Leave --autocast out, or use a GPU or another processor.",
        stacklevel=1,
    )
