"""Training with Lightning: the modules behind ``manifold-rnn`` (extra ``train``).

Everything is imported on first use, so that ``manifold-rnn --help`` is quick and so that the command can say which
package is missing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .baseline import LSTMClassifier, closest_hidden_size
    from .building import build_network
    from .cli import main
    from .compare.command import run_compare
    from .compare.grid import Grid, read_grid
    from .compare.settings import CompareSettings
    from .data import SequenceData
    from .demo import run_demo
    from .module import SequenceModule
    from .optimizers import Together, build_optimizer
    from .plots import plot_curves, plot_eigenvalues
    from .report import EpochRecord, Result, print_table, write_results
    from .run_parts import NetworkSettings, OptimizerSettings, ScheduleSettings
    from .run_settings import RunSettings, as_mapping, read_run
    from .running import evaluate, run
    from .schedules import build_schedule
    from .sessions import RunRecord
    from .settings import DemoSettings

_HOME = {
    "CompareSettings": "compare.settings",
    "DemoSettings": "settings",
    "EpochRecord": "report",
    "Grid": "compare.grid",
    "LSTMClassifier": "baseline",
    "NetworkSettings": "run_parts",
    "OptimizerSettings": "run_parts",
    "Result": "report",
    "RunRecord": "sessions",
    "RunSettings": "run_settings",
    "ScheduleSettings": "run_parts",
    "SequenceData": "data",
    "SequenceModule": "module",
    "Together": "optimizers",
    "as_mapping": "run_settings",
    "build_network": "building",
    "build_optimizer": "optimizers",
    "build_schedule": "schedules",
    "closest_hidden_size": "baseline",
    "evaluate": "running",
    "main": "cli",
    "plot_curves": "plots",
    "plot_eigenvalues": "plots",
    "print_table": "report",
    "read_grid": "compare.grid",
    "read_run": "run_settings",
    "run": "running",
    "run_compare": "compare.command",
    "run_demo": "demo",
    "write_results": "report",
}

__all__ = [
    "CompareSettings",
    "DemoSettings",
    "EpochRecord",
    "Grid",
    "LSTMClassifier",
    "NetworkSettings",
    "OptimizerSettings",
    "Result",
    "RunRecord",
    "RunSettings",
    "ScheduleSettings",
    "SequenceData",
    "SequenceModule",
    "Together",
    "as_mapping",
    "build_network",
    "build_optimizer",
    "build_schedule",
    "closest_hidden_size",
    "evaluate",
    "main",
    "plot_curves",
    "plot_eigenvalues",
    "print_table",
    "read_grid",
    "read_run",
    "run",
    "run_compare",
    "run_demo",
    "write_results",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
