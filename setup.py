"""The one part of the build that pyproject.toml cannot say: the optional C kernels.

The library has no Python symbols: it is loaded with ctypes, so one build serves every Python version, and where
there is no compiler the package installs all the same and runs on the plain-torch reference.
"""

import os
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NATIVE = Path("src/subspaces/kernels/native")
FLAGS = ["-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-g0", "-pthread"]


class OptionalBuild(build_ext):
    """Build the kernels when a C compiler is found; say one clear line when it is not."""

    def get_export_symbols(self, ext):  # Windows would ask for a PyInit function that does not exist
        return ext.export_symbols

    def get_ext_filename(self, fullname):  # the same name for every Python: none is meant
        return os.path.join(*fullname.split(".")) + (".pyd" if os.name == "nt" else ".so")

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except Exception as error:
            print(f"subspaces: C kernels not built ({error}); the plain-torch reference is used instead")


class AnyPython(bdist_wheel):
    """A wheel with the kernels is tied to a platform, but to no version of Python."""

    def get_tag(self):
        python, abi, platform = super().get_tag()
        return ("py3", "none", platform) if self.distribution.has_ext_modules() else (python, abi, platform)


def extensions():
    sources = sorted(str(path) for path in NATIVE.glob("*.c"))
    if not sources or os.environ.get("SUBSPACES_NO_NATIVE"):
        return []
    headers = sorted(str(path) for path in NATIVE.glob("*.h"))
    flags = ["/O2"] if os.name == "nt" else FLAGS
    libraries = [] if os.name == "nt" else ["m"]
    return [
        Extension(
            "subspaces.kernels._native",
            sources,
            depends=headers,
            extra_compile_args=flags,
            extra_link_args=[] if os.name == "nt" else ["-pthread"],
            libraries=libraries,
            optional=True,
        )
    ]


setup(ext_modules=extensions(), cmdclass={"build_ext": OptionalBuild, "bdist_wheel": AnyPython})
