"""Comparisons: many runs as one study, which any number of processes and machines share (extra ``train``).

A grid of combinations, each a run for every seed:

>>> axes = {"network.constraint": ["Orthogonal", "Unitary"], "network.retraction": ["cayley", "exp"]}
>>> grid = mr.study.Grid({"task": {"name": "Digits"}, "network": {"cell": "Elman"}}, axes, seeds=[0, 1])
>>> assert len(grid.cases()) == 8

A search instead, which draws its combinations:

>>> search = {"optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}}
>>> grid = mr.study.Grid(grid.base, search=search, trials=20, pruning=True)

A file is run by ``manifold-rnn compare grid.yaml``, or from Python:

>>> settings = mr.study.CompareSettings("grid.yaml", workers=2)  # then mr.study.compare(settings)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .comparison import compare
    from .grid import Grid, read_grid
    from .settings import CompareSettings

_SEARCHED = ("settings", "grid", "comparison")  # the light ones first

__all__ = ["CompareSettings", "Grid", "compare", "read_grid"]


def __getattr__(name: str) -> object:
    for module in _SEARCHED if name in __all__ else ():
        if value := vars(import_module(f".{module}", __name__)).get(name):
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
