"""The build hook: compiles the libraries of ``manifold_rnn/_kernels``, which go into the wheel.

An editable install uses them where they were compiled. Without a compiler, one line says that the package runs on torch
alone.
"""

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path("manifold_rnn", "_kernels")


class CompiledLibraries(BuildHookInterface[Any]):
    """Compiles the libraries, and marks the wheel with the platform they are for: they use neither Python nor torch."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files of the wheel are collected."""
        folder = Path(self.root) / KERNELS
        spec = importlib.util.spec_from_file_location("building", folder / "building.py")
        assert spec is not None and spec.loader is not None
        building = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(building)
        failure = building.compile_libraries(folder)
        if failure:
            self.app.display_warning(f"manifold_rnn runs on torch alone where no library was compiled: {failure}")
        libraries = sorted(folder.glob("kernels_*.so"))
        if libraries and version != "editable":
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"
            build_data["artifacts"] += [f"/{KERNELS.as_posix()}/{path.name}" for path in libraries]
