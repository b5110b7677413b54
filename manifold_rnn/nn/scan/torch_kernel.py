"""Torch's kernels for its LSTM and GRU."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedError
from ..cells.base import Cell, State
from .base import Backend, Request

_LOOPS_ON_CPU = frozenset({"gru"})  # kernels that are only a loop over operations on a CPU
_LOOP_DTYPES = (torch.float32, torch.float64)  # dtypes that the hand-written steps support


def torch_kernel(
    cell: Cell,
    x: Tensor,
    state: State,
    W: Tensor,
    *,
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
) -> tuple[Tensor, State]:
    """Run a bound LSTM or GRU cell over time by the kernel of ``torch.nn.LSTM`` or ``torch.nn.GRU``.

    On a GPU this is cuDNN.

    Parameters
    ----------
    cell : Cell
        A real `cells.LSTM` or `cells.GRU`, or another cell with a ``torch_kernel``, bound to its weights.
    x : Tensor, shape (T, B, m), T >= 1, or (N, m) if packed
        Unprojected inputs.
    state : tuple of Tensor, each of shape (B, n)
        State before the first step.
    W : Tensor, shape (k n, n)
        Recurrent matrices of the gates.
    batch_sizes : sequence of int, optional
        Number of sequences at each time step, for a packed ``x``. Then ``reverse`` must be False.
    reverse : bool
        Whether to run from the last step to the first.

    Returns
    -------
    y : Tensor, shape (T, B, n), or (N, n) if packed
    state : tuple of Tensor
        State after the last step.

    Raises
    ------
    UnsupportedError
        If torch has no kernel for this cell.

    Examples
    --------
    >>> layer = mr.nn.GRU(2, 3)
    >>> cell = layer.cell.bind({name: getattr(layer, name + "_l0") for name in ("weight_ih", "bias_ih", "bias_hh")})
    >>> y, _ = mr.nn.scan.torch_kernel(cell, torch.ones(5, 1, 2), (torch.zeros(1, 3),), layer.weight_hh_l0)
    >>> assert torch.allclose(y, layer(torch.ones(5, 1, 2))[0])
    """
    if cell.torch_kernel is None:
        raise UnsupportedError(
            f"torch has no kernel for this cell.\nExpected a cell with a torch_kernel, got {type(cell).__name__}.\n"
            "Use run, which chooses a scan that fits."
        )
    kernel = getattr(torch, cell.torch_kernel)
    biases = [cell.weights[name] for name in ("bias_ih", "bias_hh") if name in cell.weights]
    weights = [cell.weights["weight_ih"], W, *biases]
    start: Any = tuple(part.unsqueeze(0).contiguous() for part in state)  # (1, B, n) each
    start = start if len(start) > 1 else start[0]
    training = torch.is_grad_enabled()  # without gradients, cuDNN keeps nothing for a backward pass
    options = bool(biases), 1, 0.0, training, False  # biases, layers, dropout, training, bidirectional
    if batch_sizes is not None:
        sizes = torch.tensor(list(batch_sizes))  # on the CPU, as in packed sequences
        y, *last = kernel(x, sizes, start, weights, *options)
    else:
        batch_first = False
        y, *last = kernel(x.flip(0) if reverse else x, start, weights, *options, batch_first)
        y = y.flip(0) if reverse else y
    return y, tuple(part.squeeze(0) for part in last)


class TorchKernel(Backend):
    """The torch kernel that the class of the cell names."""

    name = "torch_kernel"

    def run(self, request: Request) -> tuple[Tensor | None, State]:
        r = request
        return torch_kernel(r.cell, r.x, r.state, r.W, batch_sizes=r.batch_sizes, reverse=r.reverse)

    def cannot_run(self, request: Request) -> str:
        cell = request.cell
        if cell.torch_kernel is None or not cell.steps_match("torch_kernel"):
            return "torch has no kernel for this cell"
        if request.W.is_complex():
            return "torch has no kernel for complex numbers"
        packed_from_the_end = request.batch_sizes is not None and request.reverse
        return "torch's kernels do not run a packed batch from its end" if packed_from_the_end else ""

    def auto_declines(self, request: Request) -> str:
        is_loop = request.x.device.type == "cpu" and request.cell.torch_kernel in _LOOPS_ON_CPU
        return "torch's kernel is slower on a CPU" if is_loop and request.W.dtype in _LOOP_DTYPES else ""
