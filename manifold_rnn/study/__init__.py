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

from typing import TYPE_CHECKING

from .grid import CompareSettings, Grid, read_grid

if TYPE_CHECKING:
    from .comparison import compare

__all__ = ["CompareSettings", "Grid", "compare", "read_grid"]


def __getattr__(name: str) -> object:
    if name == "compare":  # which needs seconds to import Optuna
        from .comparison import compare

        return compare
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
