"""The one part of the build that pyproject.toml cannot say: the optional C kernels.

The library has no Python symbols: it is loaded with ctypes, so one build serves every Python version, and where
there is no compiler the package installs all the same and runs on the plain-torch reference.
"""

import os
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = sorted(str(path) for path in Path("src/subspaces/kernels/native").glob("*.c"))


class OptionalBuild(build_ext):
    """Build the kernels when a C compiler is found; say one clear line when it is not."""

    def get_export_symbols(self, ext):  # Windows would ask for a PyInit function that does not exist
        return ext.export_symbols

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except Exception as error:
            print(f"subspaces: C kernels not built ({error}); the plain-torch reference is used instead")


def extensions():
    if not SOURCES or os.environ.get("SUBSPACES_NO_NATIVE"):
        return []
    flags = ["/O2"] if os.name == "nt" else ["-O3", "-fno-math-errno", "-fno-trapping-math", "-pthread"]
    return [Extension("subspaces.kernels._native", SOURCES, extra_compile_args=flags, optional=True)]


setup(ext_modules=extensions(), cmdclass={"build_ext": OptionalBuild})
