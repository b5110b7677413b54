"""A scan that computes all steps at once, for cells that support it."""

import math
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...errors import UnsupportedError
from ...linalg.precision import without_autocast
from ..cells.base import AllSteps, Cell, State
from .base import Backend, Request
from .sequences import scan_sequences


def chunked(cell: Cell, x: Tensor, state: State, *, recompute: bool = False) -> tuple[Tensor, State]:
    r"""Run a bound cell over time by its function for all steps at once.

    Products of reflections are computed in blocks of time. The product of the R reflections of a block is :math:`I -
    K^\top T \bar K` with a triangular ``T``. So the first state of each block follows from that of the previous block,
    and all other states of the block follow from it.

    Parameters
    ----------
    cell : Cell
        `cells.HouseholderProduct` with the identity, `cells.DeltaProduct`, `cells.Rotating`, or another cell with
        ``all_steps``, bound to its weights.
    x : Tensor, shape (T, B, m), T >= 1
        Unprojected inputs.
    state : tuple of Tensor, each of shape (B, ...)
        State before the first step.
    recompute : bool
        Whether to keep only inputs, outputs and about :math:`\sqrt T` states. The backward pass computes everything
        else again.

    Returns
    -------
    y : Tensor, shape (T, B, n)
    state : tuple of Tensor
        State after the last step.

    Raises
    ------
    UnsupportedError
        If the cell can only run one step at a time, or its states are in half precision.

    Notes
    -----
    The backward pass of reflections uses blocks too. Second derivatives, forward mode, ``torch.func`` and
    ``torch.compile`` run the same blocks as torch operations. A NaN or infinite input may also affect earlier steps of
    its block. With the backend "reference" it affects only later steps. Source of the blocks: Bischof and Van Loan
    (1987).

    Examples
    --------
    >>> layer = mr.nn.Layer(mr.nn.cells.HouseholderProduct(), 2, 8)
    >>> cell, x = layer.cell.bind(layer.weights("_l0")), torch.randn(100, 3, 2)
    >>> y, _ = mr.nn.scan.chunked(cell, x, cell.initial_state(3))
    >>> expected, _ = mr.nn.scan.reference(cell, cell.project(x), cell.initial_state(3), cell.weights["weight_hh"])
    >>> assert torch.allclose(y, expected, atol=1e-4)
    """
    run = cell.all_steps() if cell.steps_match("all_steps") else None
    if run is None:
        raise UnsupportedError(
            "The cell can only run one step at a time.\n"
            f"Expected a cell with all_steps, got {cell!r:.80}.\nUse run, which chooses a scan that fits."
        )
    if reason := _of_narrow_states(state):
        raise UnsupportedError(
            f"A scan of all steps at once does not support these states: {reason}.\n"
            f"Expected single or double precision, got {state[0].dtype}.\nUse run, which chooses a scan that fits."
        )
    with without_autocast(x):
        if not recompute:
            return run(x, state)
        part, outputs = partial(_run_part, run), []
        for x_part in x.split(math.isqrt(len(x) - 1) + 1):
            y, *state_parts = checkpoint(part, x_part, *state, use_reentrant=False)
            state = tuple(state_parts)
            outputs.append(y)
    return torch.cat(outputs), state


def _run_part(run: AllSteps, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
    y, last = run(x, state)
    return y, *last


class Chunked(Backend):
    """All steps at once, by the function of the cell."""

    name = "chunked"

    def run(self, request: Request) -> tuple[Tensor | None, State]:
        scan = partial(chunked, request.cell, recompute=request.recompute)
        return scan_sequences(scan, request.x, request.state, request.batch_sizes, request.reverse)

    def cannot_run(self, request: Request) -> str:
        cell = request.cell
        if cell.steps_match("all_steps") and cell.all_steps() is not None:
            return _of_narrow_states(request.state)
        return "the cell can only run one step at a time"


def _of_narrow_states(state: State) -> str:
    """Return why states of this dtype must run one step at a time, or "" if they need not."""
    narrow = torch.finfo(state[0].dtype).bits < 32
    return "torch solves no triangular systems in half precision" if narrow else ""
