"""Scans: ways to run a cell over time. All have the outputs and gradients of the plain loop `reference`.

A layer chooses a scan automatically, or uses the one that you name. `run` does the same for a bound cell:

>>> layer = mr.nn.RNN(3, 8, constraint=mr.Orthogonal(), backend="fused")
>>> cell, W = layer.cell.bind(layer.weights("_l0")), layer.weight_hh_l0
>>> x, state = torch.randn(20, 2, 3), (torch.zeros(2, 8),)
>>> y, _ = mr.nn.scan.run(cell, x, state, W)
>>> assert torch.allclose(y, layer(x)[0], atol=1e-5)

Compare any scan with the reference:

>>> expected, _ = mr.nn.scan.reference(cell, cell.project(x), state, W)
>>> y, last = mr.nn.scan.fused(cell.elman_form(), x, state[0], W, every_step=False, recompute=True)
>>> assert y is None and torch.allclose(last, expected[-1], atol=1e-5)

A linear recurrence with a diagonal matrix runs in parallel over time:

>>> decay, u, start = torch.full((8,), 0.9), torch.randn(1000, 2, 8), torch.zeros(2, 8)
>>> assert mr.nn.scan.associative(decay, u, start).shape == (1000, 2, 8)
"""

from ..cells.elman_form import ElmanForm
from ..cells.gated_form import GatedForm
from .associative import associative
from .chunked import chunked
from .compiled import compiled
from .elman.fused import fused
from .elman.native import native
from .elman.triton import triton
from .gated import gated
from .reference import reference
from .run import run
from .torch_kernel import torch_kernel

__all__ = [
    "ElmanForm",
    "GatedForm",
    "associative",
    "chunked",
    "compiled",
    "fused",
    "gated",
    "native",
    "reference",
    "run",
    "torch_kernel",
    "triton",
]
