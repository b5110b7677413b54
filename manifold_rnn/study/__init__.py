"""Comparisons: many runs in one study, shared by any number of processes and machines (extra ``train``).

A grid runs every combination once for every seed:

>>> axes = {"network.constraint": ["Orthogonal", "Unitary"], "network.retraction": ["cayley", "exp"]}
>>> grid = mr.study.Grid({"task": {"name": "Digits"}, "network": {"cell": "Elman"}}, axes, seeds=[0, 1])
>>> assert len(grid.cases()) == 8

A search draws its combinations instead:

>>> search = {"optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}}
>>> grid = mr.study.Grid(grid.base, search=search, trials=20, pruning=True)

Run a file with ``manifold-rnn compare grid.yaml``, or from Python:

>>> settings = mr.study.CompareSettings("grid.yaml", workers=2)  # then mr.study.compare(settings)
"""

from typing import TYPE_CHECKING

from .grid import Grid, read_grid
from .settings import CompareSettings

if TYPE_CHECKING:
    from .comparison import compare

__all__ = ["CompareSettings", "Grid", "compare", "read_grid"]


def __getattr__(name: str) -> object:
    if name == "compare":  # imported late, because Optuna takes seconds to import
        from .comparison import compare

        return compare
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
