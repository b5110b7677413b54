"""Recurrent layers, their cells, nonlinearities, initializations and scans.

A network is a layer, a constraint and an initialization. The layers have the signatures of torch's layers:

>>> rnn = mr.nn.RNN(3, 8, nonlinearity="modrelu", constraint=mr.Orthogonal())
>>> output, h_n = rnn(torch.randn(20, 2, 3))
>>> assert output.shape == (20, 2, 8) and mr.linalg.defect(rnn.weight_hh_l0) < 1e-5

Each gate can have its own constraint. In the trivialized view any optimizer trains them:

>>> constraint = {"g": mr.Orthogonal(), "f": mr.Contraction()}
>>> lstm = mr.nn.LSTM(3, 8, batch_first=True, constraint=constraint, view="trivialized")
>>> optimizer = torch.optim.Adam(lstm.parameters())

`Layer` runs any cell of `manifold_rnn.nn.cells`, in levels and in both directions:

>>> oscillators = mr.nn.Layer(mr.nn.cells.CoRNN(), 3, 8, num_layers=2, bidirectional=True)
>>> assert oscillators(torch.randn(20, 2, 3))[0].shape == (20, 2, 16)
"""

from . import cells, init, scan, trees
from .activations import ModReLU, gate, mod_relu, mod_tanh, real_features, split_relu
from .gating import gate_units, l0_penalty
from .gru import GRU
from .layer import Layer
from .lstm import LSTM
from .pruning import open_units, prune
from .rnn import RNN
from .unit_gates import UnitGates

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Layer",
    "ModReLU",
    "UnitGates",
    "cells",
    "gate",
    "gate_units",
    "init",
    "l0_penalty",
    "mod_relu",
    "mod_tanh",
    "open_units",
    "prune",
    "real_features",
    "scan",
    "split_relu",
    "trees",
]
