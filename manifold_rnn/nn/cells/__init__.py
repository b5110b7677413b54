"""Cells: each is one step of a recurrence, without levels, directions or constraints.

`manifold_rnn.nn.Layer` runs a cell over time and constrains its recurrent matrix. Every cell with a recurrent matrix
accepts every constraint:

>>> layer = mr.nn.Layer(mr.nn.cells.LEM(), 3, 8, constraint=mr.Orthogonal())
>>> assert mr.linalg.defect(layer.weight_hh_l0.unflatten(0, (4, 8))).max() < 1e-5

A cell may contain another cell. Its gates are constrained by their names:

>>> momentum_lstm = mr.nn.cells.Momentum(mr.nn.cells.LSTM(), momentum=0.9)
>>> layer = mr.nn.Layer(momentum_lstm, 3, 8, constraint={"g": mr.Orthogonal()})
>>> assert momentum_lstm.gates == ("i", "f", "g", "o")

In some cells the input determines the matrix of each step. Such a cell has no gates and accepts no constraint:

>>> layer = mr.nn.Layer(mr.nn.cells.HouseholderProduct(reflections=2), 3, 8)
>>> assert layer.cell.gates == () and layer(torch.zeros(20, 2, 3))[0].shape == (20, 2, 8)

To write your own cell, override the methods that differ:

>>> class Residual(mr.nn.cells.Elman):
...     def step(self, u, state, W):
...         y, _ = super().step(u, state, W)
...         h = state[0] + 0.1 * y
...         return h, (h,)
>>> assert mr.nn.Layer(Residual(), 3, 8)(torch.zeros(20, 2, 3))[0].shape == (20, 2, 8)
"""

from .base import Cell
from .cornn import CoRNN
from .delta import DeltaProduct
from .elman import Elman
from .euler import Euler
from .goru import GORU
from .gru import GRU
from .householder import HouseholderProduct
from .leaky import LeakyElman
from .lem import LEM
from .lipschitz import Lipschitz
from .lru import LRU
from .lstm import LSTM
from .momentum import Momentum
from .nru import NRU
from .quadratic import Quadratic
from .rotating import Rotating
from .sbo import SBO
from .tree import Tree
from .tree_search import TreeSearch

__all__ = [
    "GORU",
    "GRU",
    "LEM",
    "LRU",
    "LSTM",
    "NRU",
    "SBO",
    "Cell",
    "CoRNN",
    "DeltaProduct",
    "Elman",
    "Euler",
    "HouseholderProduct",
    "LeakyElman",
    "Lipschitz",
    "Momentum",
    "Quadratic",
    "Rotating",
    "Tree",
    "TreeSearch",
]
