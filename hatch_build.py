"""Compiles the statistics kernel into the wheel where there is a C compiler; without one the wheel is pure Python and the package falls back."""

import runpy
import sysconfig
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelBuildHook(BuildHookInterface):
    """Adds the shared library to a wheel, and its platform to the wheel's tag; an editable install gets it into the source tree."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before a wheel is put together; a failed build is no failed install."""
        kernel = runpy.run_path(f"{self.root}/cnnprobe/stats/build.py")
        library = kernel["PACKAGED"]
        if not kernel["build"](library):
            self.app.display_warning("no C compiler: the statistics fall back to torch and NumPy")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = (
            f"py3-none-{platform}"  # it knows nothing of Python's or torch's binary interface
        )
        if version != "editable":
            build_data["force_include"][str(library)] = f"cnnprobe/stats/{library.name}"
