"""Runs a cell over time by the fastest backend that fits."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import UnsupportedError
from ..cells.base import Cell, State
from .backends import BY_NAME, BackendName, require_backend
from .base import Backend, Request

_log = logging.getLogger(__name__)


def run(
    cell: Cell,
    x: Tensor,
    state: State,
    W: Tensor,
    *,
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
    backend: BackendName = "auto",
    diagonal: bool = False,
    every_step: bool = True,
    recompute: bool = False,
) -> tuple[Tensor | None, State]:
    """Run a bound cell over time by the fastest backend that fits.

    Parameters
    ----------
    cell : Cell
        Cell that is bound to its weights.
    x : Tensor, shape (T, B, m), T >= 1, or (N, m) if packed
        Unprojected inputs.
    state : tuple of Tensor, each of shape (B, ...)
        State before the first step.
    W : Tensor, shape (n, n), or (k n, n) for a cell with k gates
        Recurrent matrix.
    batch_sizes : sequence of int, optional
        For a packed ``x``: the number of sequences at each time step. It never increases, and the sum is N.
    reverse : bool
        Whether to run from the last step to the first.
    backend : str
        One of the following.

        - "auto" uses the first of the others, in this order, that can run the cell and is expected to be fast. It
          writes its choice and the reasons to the debug log.
        - "torch_kernel": see `torch_kernel`; for real LSTM and GRU cells.
        - "associative": see `associative`; for a linear cell with a diagonal matrix.
        - "chunked": see `chunked`; for linear cells whose matrices depend on the input.
        - "triton": see `triton`; for a cell in Elman form on a GPU.
        - "native": see `native`; for a cell in Elman form on a CPU.
        - "fused": see `fused`; for a cell in Elman form.
        - "gated": see `gated`; for LSTM, GRU, GORU, LEM and NRU, and momentum around them.
        - "compiled": see `compiled`; never chosen by "auto".
        - "reference": see `reference`; for every cell.
    diagonal : bool
        Whether ``W`` is known to be diagonal.
    every_step : bool
        Whether to return the outputs of all steps.
    recompute : bool
        Whether to save memory by computing states again. See `fused` and `chunked`. It only affects "fused", "triton",
        "native" and "chunked".

    Returns
    -------
    y : Tensor, shape (T, B, n), or (N, n) if packed; or None
    state : tuple of Tensor
        State after the last step.

    Raises
    ------
    OptionError
        If the backend is unknown.
    UnsupportedError
        If the backend cannot run this cell with these inputs.

    Examples
    --------
    >>> cell = mr.nn.cells.Elman("relu", bias=False).bind({"weight_ih": torch.ones(1, 1)})
    >>> x, state, W = torch.ones(3, 2, 1), (torch.zeros(2, 1),), torch.ones(1, 1)
    >>> (y, _), (z, _) = (mr.nn.scan.run(cell, x, state, W, backend=name) for name in ("auto", "reference"))
    >>> assert torch.equal(y, z)
    """
    require_backend(backend)
    request = Request(cell, x, state, W, batch_sizes, reverse, diagonal, every_step, recompute)
    y, state = _choose(request, backend).run(request)
    return (y if every_step else None), state


def _choose(request: Request, name: str) -> Backend:
    """Return the backend of this name, or for "auto" the first one that runs the request."""
    reasons: dict[str, str] = {}
    for backend in BY_NAME.values() if name == "auto" else [BY_NAME[name]]:
        reason = request.needs_visible_steps(has_operators=backend.has_operators) if backend.hides_steps else ""
        if name == "auto":
            reason = reason or backend.auto_declines(request)
        reason = reason or backend.cannot_run(request) or backend.load()
        if not reason:
            _log_choice(request, backend, name, reasons)
            return backend
        reasons[backend.name] = reason
    raise UnsupportedError(
        f"The backend {name!r} cannot run this cell with these inputs: {reasons[name]}.\n"
        f'Expected a cell that it supports, got {type(request.cell).__name__}.\nUse backend="auto".'
    )


def _log_choice(request: Request, backend: Backend, name: str, reasons: dict[str, str]) -> None:
    if torch.compiler.is_compiling():  # the compiler does not support logging
        return
    rejected = "; ".join(f"not {other}: {reason}" for other, reason in reasons.items())
    why = (rejected or "it fits") if name == "auto" else "asked for"
    _log.debug("%s scan for %s (%s)", backend.name, type(request.cell).__name__, why)
