"""Which way a cell is run over time."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...errors import OptionError, UnsupportedError
from ..cells.base import Cell, Form, State
from .associative import associative
from .base import Request
from .compiled import cannot_compile, compiled
from .elman.fused import fused
from .elman.native import cannot_run, native, should_not_run
from .elman.triton import cannot_launch, should_not_launch, triton
from .reference import loop
from .sequences import in_order
from .torch_kernel import cannot_call, library

Backend = Literal["auto", "reference", "library", "associative", "triton", "native", "fused", "compile"]

_log = logging.getLogger(__name__)


def run(
    cell: Cell,
    x: Tensor,
    state: State,
    W: Tensor,
    *,
    batch_sizes: Sequence[int] | None = None,
    reverse: bool = False,
    backend: Backend = "auto",
    diagonal: bool = False,
    every_step: bool = True,
    recompute: bool = False,
) -> tuple[Tensor | None, State]:
    """Run a bound cell over time by the fastest way that fits it.

    Parameters
    ----------
    cell : Cell
        Bound to its weights.
    x : Tensor, shape (T, B, m), T >= 1, or (N, m) if packed
        Inputs, not projected.
    state : tuple of Tensor, each of shape (B, ...)
        Before the first step.
    W : Tensor, shape (n, n), or (k n, n) for a cell of k gates
        Recurrent matrix.
    batch_sizes : sequence of int, optional
        Given if ``x`` is packed.
    reverse : bool
        From the last step to the first.
    backend : "auto", "reference", "library", "associative", "triton", "native", "fused" or "compile"
        The plain `loop`; torch's own kernels for LSTM and GRU, `library`; `associative` for a linear cell and a
        diagonal matrix; `triton` on a GPU, `native` on a CPU once it is built, and `fused`, for a cell with a form;
        the loop by torch's compiler, `compiled`. "auto" takes the first of them but the last that fits, else the loop,
        and says so in a debug log.
    diagonal : bool
        Whether ``W`` is known to be diagonal.
    every_step : bool
        Whether all outputs are wanted.
    recompute : bool
        See `fused`, `triton` and `native`; the others do not.

    Returns
    -------
    y : Tensor, shape (T, B, n), or None
    state : tuple of Tensor
        After the last step.

    Raises
    ------
    OptionError
        If the backend is unknown.
    UnsupportedError
        If it cannot run this.

    Examples
    --------
    >>> cell = mr.nn.cells.Elman("relu", bias=False).bind({"weight_ih": torch.ones(1, 1)})
    >>> start, W = (torch.zeros(2, 1),), torch.ones(1, 1)
    >>> (y, _), (z, _) = (mr.nn.scan.run(cell, torch.ones(3, 2, 1), start, W, backend=b) for b in ("auto", "reference"))
    >>> assert torch.equal(y, z)
    """
    require_backend(backend)
    request = Request(cell, x, state, W, batch_sizes, reverse, diagonal, every_step, recompute)
    y, state = _WAYS[_choose(request, backend)].run(request)
    return (y if every_step else None), state


class _Way(NamedTuple):
    run: Callable[[Request], tuple[Tensor | None, State]]
    cannot: Callable[[Request], str]  # why it can't run this, or nothing
    hides: bool = True  # the steps, from whoever wants to look into them
    auto: bool = True
    unwanted: Callable[[Request], str] = lambda _: ""  # why "auto" leaves it alone though it can


def _loop(r: Request) -> tuple[Tensor | None, State]:
    return loop(r.cell, r.cell.project(r.x), r.state, r.W, batch_sizes=r.batch_sizes, reverse=r.reverse)


def _compiled(r: Request) -> tuple[Tensor | None, State]:
    return in_order(partial(_compiled_stretch, r), r.x, r.state, r.batch_sizes, r.reverse)


def _compiled_stretch(r: Request, x: Tensor, state: State) -> tuple[Tensor, State]:
    return compiled(r.cell, r.cell.project(x), state, r.W)


def _library(r: Request) -> tuple[Tensor | None, State]:
    return library(r.cell, r.x, r.state, r.W, batch_sizes=r.batch_sizes, reverse=r.reverse)


_Formed = Callable[[Request, Form, Tensor, Tensor], tuple[Tensor | None, Tensor]]


def _by_form(scan: _Formed, r: Request) -> tuple[Tensor | None, State]:
    """Run a cell by its form, with a scan from inputs (T, B, m) and a state (B, n) to outputs and the last state."""
    return in_order(partial(_stretch, scan, r), r.x, r.state, r.batch_sizes, r.reverse)


def _stretch(scan: _Formed, r: Request, x: Tensor, state: State) -> tuple[Tensor | None, State]:
    form = r.form()
    assert form is not None
    inputs, rest = r.cell.prepare(x, state)
    y, h = scan(r, form, inputs, state[0])
    return y, (h, *rest)


def _associative(r: Request, form: Form, x: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    y = associative(r.W.diagonal(), form.project(x), h0)
    return y, y[-1]


def _fused(r: Request, form: Form, x: Tensor, h0: Tensor) -> tuple[Tensor | None, Tensor]:
    return fused(form, x, h0, r.W, every_step=r.every_step, recompute=r.recompute)


def _triton(r: Request, form: Form, x: Tensor, h0: Tensor) -> tuple[Tensor | None, Tensor]:
    return triton(form, x, h0, r.W, every_step=r.every_step, recompute=r.recompute)


def _native(r: Request, form: Form, x: Tensor, h0: Tensor) -> tuple[Tensor | None, Tensor]:
    return native(form, x, h0, r.W, every_step=r.every_step, recompute=r.recompute)


def _cannot_scan(r: Request) -> str:
    form = r.form()
    if form is None or form.activation != "linear":
        return "the cell is not linear"
    return "" if r.diagonal else "the matrix is not diagonal"


def _cannot_fuse(r: Request) -> str:
    return "the steps have no form that is known" if r.form() is None else ""


# in the order of preference
_WAYS = {
    "library": _Way(_library, cannot_call),
    "associative": _Way(partial(_by_form, _associative), _cannot_scan),
    "triton": _Way(partial(_by_form, _triton), cannot_launch, unwanted=should_not_launch),
    "native": _Way(partial(_by_form, _native), cannot_run, unwanted=should_not_run),
    "fused": _Way(partial(_by_form, _fused), _cannot_fuse),
    "compile": _Way(_compiled, cannot_compile, auto=False),
    "reference": _Way(_loop, lambda _: "", hides=False),
}
BACKENDS = ("auto", "reference", *list(_WAYS)[:-1])


def _choose(request: Request, backend: Backend) -> str:
    """The name of the way that is taken."""
    hidden = request.cannot_be_hidden()
    reasons: dict[str, str] = {}
    for name, way in _WAYS.items():
        if name != backend and not (backend == "auto" and way.auto):
            continue
        reason = (hidden if way.hides else "") or (backend == "auto" and way.unwanted(request)) or way.cannot(request)
        if not reason:
            if not torch.compiler.is_compiling():  # which has no logging
                why = "asked for" if backend != "auto" else "; ".join(f"not {k}: {v}" for k, v in reasons.items())
                _log.debug("%s scan for %s (%s)", name, type(request.cell).__name__, why or "it fits")
            return name
        reasons[name] = reason
    raise UnsupportedError(
        f"The scan {backend!r} cannot run this: {reasons[backend]}.\nExpected what it can run, got "
        f'{type(request.cell).__name__}.\nUse backend="auto".'
    )


def require_backend(backend: str) -> None:
    """Raise `OptionError` unless there is a backend of this name."""
    if backend not in BACKENDS:
        raise OptionError(
            f"backend is a way to run a scan.\nExpected one of {', '.join(map(repr, BACKENDS))}, got {backend!r}.\n"
            'Use "auto".'
        )
