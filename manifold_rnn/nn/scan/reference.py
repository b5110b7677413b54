"""The plain loop over time. Every faster scan is compared with it."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ..cells.base import Cell, State
from .base import Backend, Request
from .sequences import scan_sequences


def reference(
    cell: Cell,
    u: Tensor,
    state: State,
    W: Tensor,
    *,
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
) -> tuple[Tensor, State]:
    r"""Run a bound cell over time, one step at a time.

    .. math:: (y_t, s_t) = \operatorname{step}(u_t, s_{t-1}; W), \qquad t = 1, \dots, T.

    Parameters
    ----------
    cell : Cell
        Cell that is bound to its weights.
    u : Tensor, shape (T, B, ...), T >= 1, or (N, ...) if packed
        Projected inputs.
    state : tuple of Tensor, each of shape (B, ...)
        State before the first step.
    W : Tensor, shape (n, n), or (k n, n) for a cell with k gates
        Recurrent matrix.
    batch_sizes : sequence of int, optional
        For a packed ``u``: the number of sequences at each time step. It never increases, and the sum is N.
    reverse : bool
        Whether to run from the last step to the first. Each sequence of a packed batch starts at its own end.

    Returns
    -------
    y : Tensor, shape (T, B, n), or (N, n) if packed
        Outputs in the order of ``u``, also if reversed.
    state : tuple of Tensor, each of shape (B, ...)
        State after the last step of each sequence.

    Examples
    --------
    >>> cell = mr.nn.cells.Elman("relu", bias=False).bind({})
    >>> y, (h,) = mr.nn.scan.reference(cell, torch.ones(3, 2, 1), (torch.zeros(2, 1),), torch.ones(1, 1))
    >>> assert torch.equal(y[:, 0, 0], torch.tensor([1.0, 2.0, 3.0])) and torch.equal(h, y[-1])
    """
    y, last = scan_sequences(partial(run_steps, cell, W), u, state, batch_sizes, reverse)
    assert y is not None
    return y, last


def run_steps(cell: Cell, W: Tensor, u: Tensor, state: State) -> tuple[Tensor, State]:
    """Run a padded batch from the first step to the last."""
    outputs: list[Tensor] = []
    for u_t in u.unbind(0):  # unbound once, because indexing u[t] would create a gradient of the size of u in each step
        y, state = cell.step(u_t, state, W)
        outputs.append(y)
    return torch.stack(outputs), state


class Reference(Backend):
    """The plain loop, which runs every cell."""

    name = "reference"
    hides_steps = False

    def run(self, request: Request) -> tuple[Tensor | None, State]:
        r = request
        return reference(r.cell, r.cell.project(r.x), r.state, r.W, batch_sizes=r.batch_sizes, reverse=r.reverse)

    def cannot_run(self, request: Request) -> str:
        return ""
