"""Builds the native CPU kernel into the package where a C++17 compiler is found, and goes on without it where not."""

import importlib.util
from pathlib import Path
from types import ModuleType

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

NATIVE = Path("xtc_jax") / "kernels" / "packed_matmul" / "native"


def _native() -> ModuleType:
    """``build.py``, without the package around it."""
    spec = importlib.util.spec_from_file_location("native_build", NATIVE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildWithKernel(build_py):
    """``build_py`` that leaves the library beside its sources (editable) or in the tree that becomes the wheel."""

    def run(self) -> None:
        """Build the package, then the library; a failure of the second is one line and no error."""
        super().run()
        folder = NATIVE if self.editable_mode else Path(self.build_lib) / NATIVE
        try:
            self.announce(f"native kernel: {_native().build(folder)}", level=2)
        except RuntimeError as error:
            self.warn(f"native kernel: not built, XLA multiplies instead: {str(error).splitlines()[0]}")


class Platform(Distribution):
    """A wheel that may hold a library is not for any platform."""

    def has_ext_modules(self) -> bool:
        """Whether the wheel is for one platform: where there is a compiler."""
        return _native().compiler() is not None


setup(cmdclass={"build_py": BuildWithKernel}, distclass=Platform)
