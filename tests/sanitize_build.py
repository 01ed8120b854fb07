"""The C kernels built with the sanitizers of the compiler, in a folder of the caller; and what is missing for it."""

import ast
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
NATIVE = HERE.parent / "src" / "subspaces" / "kernels" / "native"
KINDS = {"address": "address,undefined", "thread": "thread"}
SMALLER = {
    "threads.c": (r"#define ROWS_PER_THREAD .*", "#define ROWS_PER_THREAD 64.0"),
    "fold.c": (r"#define JOB_ROWS \d+", "#define JOB_ROWS 512"),
    "write.c": (r"larger\(1, 65536 / plan\.tile_rows\)", "1"),
    "transform.c": (r"#define LONG \(\(int64_t\)1 << 20\)", "#define LONG 512"),
}
"""Changed in the copy that is built: small calls are shared by threads too, in many jobs."""
ONE_SET = ("internal.h", r"#define HAVE_X86 1", "")
"""Changed where one instruction set is enough: the vectors of four floats that every processor has."""


def missing(kind: str = "address") -> str:
    """One line that says what is not here; empty where the sanitizer of this kind can be used."""
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None:
        return f"{kind} sanitizer: not here, no gcc is installed (Debian and Ubuntu: apt install gcc; or set CC to one)"
    if not runtime(kind):
        name = "libasan" if kind == "address" else "libtsan"
        return f"{kind} sanitizer: not here, {compiler} has no {name}.so (Debian: libgcc-NN-dev; Fedora: {name})"
    return ""


def runtime(kind: str = "address") -> Path | None:
    """The library that a process must have loaded before all others."""
    name = "libasan.so" if kind == "address" else "libtsan.so"
    asked = [os.environ.get("CC", "gcc"), f"-print-file-name={name}"]
    found = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    return found.resolve() if found.is_absolute() and found.exists() else None


def copied(folder: Path, one_set: bool = False) -> Path:
    """The sources in ``folder``, with the changes above."""
    sources = folder / "sources"
    shutil.copytree(NATIVE, sources)
    changes = [(name, *change) for name, change in SMALLER.items()] + ([ONE_SET] if one_set else [])
    for name, find, put in changes:
        change(sources / name, find, put)
    return sources


def change(path: Path, find: str, put: str) -> None:
    """Replace the one place of a source that matches."""
    text, count = re.subn(find, lambda _: put, path.read_text())
    assert count == 1, f"{path.name} has {count} places like {find!r}: tests/sanitize_build.py must follow it"
    path.write_text(text)


def build(sources: Path, kind: str = "address", level: str = "-O1", only: str = "") -> Path:
    """Compile the sources and link them; or only the named one again, and link it to a library of its own."""
    flags = [flag for flag in _flags() if not flag.startswith(("-O", "-g", "-fvisibility"))]
    flags += [level, "-g", "-fno-omit-frame-pointer", "-fPIC", f"-fsanitize={KINDS[kind]}", "-fno-sanitize-recover=all"]
    compiler, files = os.environ.get("CC", "gcc"), sorted(sources.glob("*.c"))

    def compiled(path: Path) -> None:
        subprocess.run([compiler, *flags, "-c", path.name, "-o", f"{path.stem}.o"], cwd=sources, check=True)

    wanted = [path for path in files if path.name == only or not only]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compiled, sorted(wanted, key=lambda path: "isa" not in path.name)))
    library = sources / f"lib{kind}{only}.so"
    objects = [f"{path.stem}.o" for path in files]
    subprocess.run([compiler, "-shared", *flags, "-o", library.name, *objects, "-lm"], cwd=sources, check=True)
    return library


def environment(kind: str = "address") -> dict[str, str]:
    """What a Python process that loads the library must be started with."""
    found = runtime(kind)
    assert found is not None
    options = {
        # Python keeps memory to its end; a call that asks for more than there is must be told so, as without sanitizers
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:detect_stack_use_after_return=1:exitcode=99",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1:exitcode=99",
        "TSAN_OPTIONS": "halt_on_error=1:exitcode=99:report_signal_unsafe=0",
    }
    return {**os.environ, **options, "LD_PRELOAD": str(found), "OPENBLAS_NUM_THREADS": "1"}


def _flags() -> list[str]:
    """Those that setup.py builds the package with."""
    found = re.search(r"^FLAGS = (\[.*\])$", (HERE.parent / "setup.py").read_text(), re.M)
    assert found is not None
    return ast.literal_eval(found[1])
