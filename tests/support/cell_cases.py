"""A layer of any cell, the parts of its state, and the gradient that a cell of an energy steps along."""

import torch

from manifold_rnn.nn import Layer, split_relu


def make(cell, m=3, n=4, dtype=torch.float64, seed=0, **options):
    torch.manual_seed(seed)
    return Layer(cell, m, n, dtype=dtype, **options)


def parts(h):
    return h if isinstance(h, tuple) else (h,)


def energy_slope(cell, W, u, h):
    """By automatic differentiation."""
    h = h.detach().requires_grad_()
    F = (cell.target * h - split_relu(W @ h + u)).abs().square().sum() / 2
    return torch.autograd.grad(F, h)[0].detach()
