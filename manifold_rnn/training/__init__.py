"""Training with Lightning, from settings (extra ``train``).

Read a run from a mapping, which has the form of a YAML file:

>>> mapping = {"task": {"name": "Digits"}, "network": {"zoo": "scornn", "hidden_size": 16}, "epochs": 3}
>>> settings = mr.training.read_run(mapping)  # then mr.training.run(settings, folder="runs/digits")

Build the network alone:

>>> network = mr.training.build_network(settings.network, input_size=1, output_size=10)

Build the modules for your own trainer:

>>> module = mr.training.SequenceModule(network, settings.task, settings.optimizer)
>>> data = mr.training.SequenceData(settings.task, batch_size=64)
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .build import build_network
from .environment import process_numbers
from .mapping import as_mapping, read_run
from .methods import LearningSettings, PruningSettings, SearchSettings, StartSettings
from .optimizers import build_optimizer
from .record import RunRecord
from .settings import NetworkSettings, OptimizerSettings, RunSettings, ScheduleSettings

if TYPE_CHECKING:
    from .data import SequenceData
    from .module import SequenceModule
    from .runs import evaluate, run

__all__ = [
    "LearningSettings",
    "NetworkSettings",
    "OptimizerSettings",
    "PruningSettings",
    "RunRecord",
    "RunSettings",
    "ScheduleSettings",
    "SearchSettings",
    "SequenceData",
    "SequenceModule",
    "StartSettings",
    "as_mapping",
    "build_network",
    "build_optimizer",
    "evaluate",
    "read_run",
    "run",
]


def __getattr__(name: str) -> object:
    modules = {"SequenceData": "data", "SequenceModule": "module", "evaluate": "runs", "run": "runs"}
    if name in modules:  # imported late, because Lightning takes seconds to import
        process_numbers()  # checks the variables of a launcher first, since Lightning reads them when it is imported
        return getattr(import_module(f".{modules[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
