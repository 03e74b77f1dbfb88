"""How the compiled kernels are built and named; everything else about the package is in pyproject.toml.

They are a plain shared library that rimrl loads with ctypes, so one wheel of a platform serves every Python.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext


class BuildKernels(build_ext):
    """Compiles the kernels, or goes on without them where there is no compiler."""

    def finalize_options(self) -> None:
        """Insist on the kernels if RIMRL_REQUIRE_KERNELS is set."""
        super().finalize_options()
        if os.environ.get("RIMRL_REQUIRE_KERNELS"):  # a wheel to be given to others is not to lack them
            for extension in self.extensions:
                extension.optional = False

    def get_ext_filename(self, fullname: str) -> str:
        """The name that `rimrl.cores.scan.library` looks for, without a version of Python in it."""
        return str(Path(*fullname.split(".")).with_suffix(".dll" if sys.platform == "win32" else ".so"))

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """No entry for Python's import; the functions export themselves."""
        return ext.export_symbols


class PlatformWheel(bdist_wheel):
    """A wheel for one platform and every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        """The platform is setuptools'."""
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build_ext": BuildKernels, "bdist_wheel": PlatformWheel})
