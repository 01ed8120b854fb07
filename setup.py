"""The one part of the build that pyproject.toml cannot say: the optional C kernels.

The library has no Python symbols: it is loaded with ctypes, so one build serves every Python version, and where
there is no compiler the package installs all the same and runs on the plain-torch reference.

The environment: SUBSPACES_NO_NATIVE=1 leaves the kernels out, which makes the wheel for any platform (Windows has no
other: the kernels want GCC or Clang); SUBSPACES_NEED_NATIVE=1 lets the build fail where they cannot be built.
"""

import os
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NATIVE = Path("src/subspaces/kernels/native")
# -ffp-contract=off: a product that is fused with a sum rounds otherwise, and not on every processor
FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-pthread"]


class OptionalBuild(build_ext):
    """Build the kernels when a C compiler is found; say one clear line when it is not."""

    def get_ext_filename(self, fullname):  # the same name for every Python: none is meant
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except Exception as error:
            if os.environ.get("SUBSPACES_NEED_NATIVE"):
                raise
            print(f"subspaces: C kernels not built ({error}); the plain-torch reference is used instead")


class AnyPython(bdist_wheel):
    """A wheel with the kernels is tied to a platform, but to no version of Python; one without them to neither."""

    def get_tag(self):
        python, abi, platform = super().get_tag()
        if not self.distribution.has_ext_modules():
            return python, abi, platform
        built = any(Path(self.get_finalized_command("build").build_lib).rglob("_native*.so"))
        return "py3", "none", platform if built else "any"


def extensions():
    sources = sorted(str(path) for path in NATIVE.glob("*.c"))
    if not sources or os.name == "nt" or os.environ.get("SUBSPACES_NO_NATIVE"):
        return []
    headers = sorted(str(path) for path in NATIVE.glob("*.h"))
    return [
        Extension(
            "subspaces.kernels._native",
            sources,
            depends=headers,
            extra_compile_args=[*FLAGS, "-fvisibility=hidden", "-g0"],
            extra_link_args=["-pthread"],
            libraries=["m"],
            optional=not os.environ.get("SUBSPACES_NEED_NATIVE"),
        )
    ]


setup(ext_modules=extensions(), cmdclass={"build_ext": OptionalBuild, "bdist_wheel": AnyPython})
