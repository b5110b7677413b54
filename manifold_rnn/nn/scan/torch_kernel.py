"""Cells that torch runs itself, with the kernels of its own layers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..cells import GRU, LSTM
from ..cells.base import Cell, State
from .base import Request

_CALLS: dict[type[Cell], Callable[..., Any]] = {LSTM: torch.lstm, GRU: torch.gru}


def library(
    cell: Cell,
    x: Tensor,
    state: State,
    W: Tensor,
    *,
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
) -> tuple[Tensor, State]:
    """Run a bound LSTM or GRU cell over time as ``torch.nn.LSTM`` and ``torch.nn.GRU`` do, given the dense matrix.

    Parameters
    ----------
    cell : LSTM or GRU
        Real.
    x : Tensor, shape (T, B, m), T >= 1, or (N, m) if packed
        Inputs, not projected.
    state : tuple of Tensor, each of shape (B, n)
        Before the first step.
    W : Tensor, shape (k n, n)
        Recurrent matrices of the gates.
    batch_sizes : sequence of int, optional
        Given if ``x`` is packed; then not ``reverse``.
    reverse : bool
        From the last step to the first.

    Returns
    -------
    y : Tensor, shape (T, B, n), or (N, n) if packed
    state : tuple of Tensor
        After the last step.

    Examples
    --------
    >>> layer = mr.nn.GRU(2, 3)
    >>> cell = layer.cell.bind({name: getattr(layer, name + "_l0") for name in ("weight_ih", "bias_ih", "bias_hh")})
    >>> y, _ = mr.nn.scan.library(cell, torch.ones(5, 1, 2), (torch.zeros(1, 3),), layer.weight_hh_l0)
    >>> assert torch.allclose(y, layer(torch.ones(5, 1, 2))[0])
    """
    biases = [cell.weights[name] for name in ("bias_ih", "bias_hh") if name in cell.weights]
    weights = [cell.weights["weight_ih"], W, *biases]
    start: Any = tuple(s.unsqueeze(0).contiguous() for s in state)
    start = start if len(start) > 1 else start[0]
    training = torch.is_grad_enabled()  # without it cuDNN keeps nothing for a backward pass
    options = bool(biases), 1, 0.0, training, False
    call = _CALLS[type(cell)]
    if batch_sizes is not None:
        sizes = torch.tensor(list(batch_sizes))  # where packed sequences have it, on the host
        y, *last = call(x, sizes, start, weights, *options)
    else:
        y, *last = call(x.flip(0) if reverse else x, start, weights, *options, False)
        y = y.flip(0) if reverse else y
    return y, tuple(s.squeeze(0) for s in last)


def cannot_call(request: Request) -> str:
    """Why torch has no kernel for this, or nothing."""
    if type(request.cell) not in _CALLS:
        return "torch has no kernel for this cell"
    if request.W.is_complex():
        return "torch has no kernel for complex numbers"
    return "a packed batch is run from its end" if request.batch_sizes is not None and request.reverse else ""
