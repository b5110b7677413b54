"""Training with Lightning, from settings (extra ``train``). Everything is imported on first use.

A run from a mapping, as a YAML file holds it:

>>> mapping = {"task": {"name": "Digits"}, "network": {"zoo": "scornn", "hidden_size": 16}, "epochs": 3}
>>> settings = mr.training.read_run(mapping)  # then mr.training.run(settings, folder="runs/digits")

The network alone:

>>> network = mr.training.build_network(settings.network, input_size=1, output_size=10)

The modules for a trainer of your own:

>>> module = mr.training.SequenceModule(network, settings.task, settings.optimizer)
>>> data = mr.training.SequenceData(settings.task, batch_size=64)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .build import build_constraint, build_network, closest_hidden_size
    from .callbacks import SafeCheckpointIO
    from .data import EpochSampler, ResumableLoader, SequenceData, SequenceLoader
    from .folder import resume_command
    from .mapping import as_mapping, read_run, read_yaml
    from .module import SequenceModule
    from .optimizers import CombinedOptimizer, build_optimizer
    from .record import Epoch, RunRecord
    from .runs import evaluate, run
    from .schedules import build_schedule
    from .settings import NetworkSettings, OptimizerSettings, RunSettings, ScheduleSettings

_MODULES = {
    "build": ("build_constraint", "build_network", "closest_hidden_size"),
    "callbacks": ("SafeCheckpointIO",),
    "data": ("EpochSampler", "ResumableLoader", "SequenceData", "SequenceLoader"),
    "folder": ("resume_command",),
    "mapping": ("as_mapping", "read_run", "read_yaml"),
    "module": ("SequenceModule",),
    "optimizers": ("CombinedOptimizer", "build_optimizer"),
    "record": ("Epoch", "RunRecord"),
    "runs": ("evaluate", "run"),
    "schedules": ("build_schedule",),
    "settings": ("NetworkSettings", "OptimizerSettings", "RunSettings", "ScheduleSettings"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "CombinedOptimizer",
    "Epoch",
    "EpochSampler",
    "NetworkSettings",
    "OptimizerSettings",
    "ResumableLoader",
    "RunRecord",
    "RunSettings",
    "SafeCheckpointIO",
    "ScheduleSettings",
    "SequenceData",
    "SequenceLoader",
    "SequenceModule",
    "as_mapping",
    "build_constraint",
    "build_network",
    "build_optimizer",
    "build_schedule",
    "closest_hidden_size",
    "evaluate",
    "read_run",
    "read_yaml",
    "resume_command",
    "run",
]


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
