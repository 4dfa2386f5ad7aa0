"""The build backend: setuptools, and the native CPU kernel where a C++17 compiler is found; without one all else is built.

The kernel is compiled against jaxlib's headers: so jaxlib is needed to build, and only where there is a compiler. It is the
newest that the Python has, as the installation itself takes; an older one beside the library is noticed when it is loaded. On
Python 3.11, where wheels are made, that is the oldest supported one, whose headers every later one accepts.
"""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 (the hooks that stay as they are)
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HEADERS = "jaxlib>=0.10.2,!=0.11.0,<0.13"
NATIVE = Path("xtc_jax") / "kernels" / "packed_matmul" / "native"


def native() -> ModuleType:
    """``native/build.py``, without the package around it."""
    spec = importlib.util.spec_from_file_location("native_build", Path(__file__).parent / NATIVE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def get_requires_for_build_wheel(settings: Any = None) -> list[str]:
    """What setuptools needs, and the headers where there is a compiler to read them."""
    return [*build_meta.get_requires_for_build_wheel(settings), *([HEADERS] if native().compiler() else [])]


def get_requires_for_build_editable(settings: Any = None) -> list[str]:
    """The same for ``pip install -e``."""
    return [*build_meta.get_requires_for_build_editable(settings), *([HEADERS] if native().compiler() else [])]


class BuildWithKernel(build_py):
    """``build_py`` that leaves the library beside its sources (editable) or in the tree that becomes the wheel."""

    def run(self) -> None:
        """Build the package, then the library; a failure of the second is one line and no error."""
        super().run()
        folder = NATIVE if self.editable_mode else Path(self.build_lib) / NATIVE
        try:
            self.announce(f"native kernel: {native().build(folder)}", level=2)
        except RuntimeError as error:
            self.warn(f"native kernel: not built, XLA multiplies instead: {str(error).splitlines()[0]}")


class PlatformWheel(bdist_wheel):
    """A wheel that may hold the library: for one platform and, as the library knows nothing of Python, for any Python 3."""

    def finalize_options(self) -> None:
        """Where there is a compiler the wheel has compiled code, in the place for it."""
        if native().compiler():
            self.distribution.has_ext_modules = lambda: True
        super().finalize_options()

    def get_tag(self) -> tuple[str, str, str]:
        """Python, its binary interface, and the platform."""
        return ("py3", "none", super().get_tag()[2])
