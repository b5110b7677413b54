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
    from .build import build_network
    from .data import SequenceData
    from .mapping import as_mapping, read_run
    from .module import SequenceModule
    from .optimizers import build_optimizer
    from .record import RunRecord
    from .runs import evaluate, run
    from .settings import NetworkSettings, OptimizerSettings, RunSettings, ScheduleSettings

_SEARCHED = ("settings", "mapping", "build", "optimizers", "record", "data", "module", "runs")  # the light ones first

__all__ = [
    "NetworkSettings",
    "OptimizerSettings",
    "RunRecord",
    "RunSettings",
    "ScheduleSettings",
    "SequenceData",
    "SequenceModule",
    "as_mapping",
    "build_network",
    "build_optimizer",
    "evaluate",
    "read_run",
    "run",
]


def __getattr__(name: str) -> object:
    for module in _SEARCHED if name in __all__ else ():
        if value := vars(import_module(f".{module}", __name__)).get(name):
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
