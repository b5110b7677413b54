"""The naive loop over time: what every faster scan must equal."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ..cells.base import Cell, State
from .sequences import in_order


def loop(
    cell: Cell,
    u: Tensor,
    state: State,
    W: Tensor,
    *,
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
) -> tuple[Tensor, State]:
    r"""Run a bound cell over time, one step after the other.

    .. math:: (y_t, s_t) = \operatorname{step}(u_t, s_{t-1}; W), \qquad t = 1, \dots, T.

    Parameters
    ----------
    cell : Cell
        Bound to its weights.
    u : Tensor, shape (T, B, ...), T >= 1, or (N, ...) if packed
        Projected inputs.
    state : tuple of Tensor, each of shape (B, ...)
        Before the first step.
    W : Tensor, shape (n, n)
        Recurrent matrix.
    batch_sizes : sequence of int, optional
        Given if ``u`` is packed: how many sequences are running at each time step, never increasing, N in all.
    reverse : bool
        From the last step to the first; each sequence of a packed batch starts at its own end.

    Returns
    -------
    y : Tensor, shape (T, B, n), or (N, n) if packed
        Outputs, in the order of ``u`` also if reversed.
    state : tuple of Tensor, each of shape (B, ...)
        After each sequence's own last step.

    Examples
    --------
    >>> cell = mr.nn.cells.Elman("relu", bias=False).bind({})
    >>> y, (h,) = mr.nn.scan.loop(cell, torch.ones(3, 2, 1), (torch.zeros(2, 1),), torch.ones(1, 1))
    >>> assert torch.equal(y[:, 0, 0], torch.tensor([1.0, 2.0, 3.0])) and torch.equal(h, y[-1])
    """
    y, last = in_order(partial(steps, cell, W), u, state, batch_sizes, reverse)
    assert y is not None
    return y, last


def steps(cell: Cell, W: Tensor, u: Tensor, state: State) -> tuple[Tensor, State]:
    """Run over inputs that are not packed, from the first to the last."""
    outputs: list[Tensor] = []
    for u_t in u.unbind(0):  # once, since indexing u[t] would give each step a gradient of the size of u
        y, state = cell.step(u_t, state, W)
        outputs.append(y)
    return torch.stack(outputs), state
