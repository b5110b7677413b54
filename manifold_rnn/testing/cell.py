"""Check of a cell."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..constraints import parametrizations
from ..errors import ManifoldError, UnsupportedError
from ..manifolds import Orthogonal, Unitary
from ..nn import Layer
from ..nn.cells import Cell
from ..nn.cells.base import FILLED_BY_BIND, State
from ..nn.scan import reference, run
from ..nn.scan.backends import BACKENDS
from ..optim import RiemannianAdam
from .report import Report, at_most
from .sample import difference, directional_error, or_infinite, refuses, seeded, worst

_UNKNOWN = "no such value"
_COMPILED = "compiled"  # compiling takes a minute for some cells


@dataclass(frozen=True)
class CellReport(Report):
    """The result of `check_cell`.

    Attributes
    ----------
    rtol : float
        Bound of the relative error of derivatives.

    Examples
    --------
    >>> report = mr.testing.check_cell(mr.nn.cells.GRU())
    >>> assert report.shapes == 0 and report.gradient < 1e-8 and report.backends < 1e-10
    """

    rtol: float
    shapes: float = at_most("tensors of a wrong shape or dtype", 0.0)
    reset: float = at_most("entries that reset leaves unset, or draws differently with equal generators", 0.0)
    gradient: float = at_most("relative error of derivatives by inputs, states and weights, in the plain loop", "rtol")
    backends: float = at_most("outputs and gradients of each scan minus those of the plain loop, relative")
    batch: float = at_most("one row of a batch minus the same sequence alone")
    halves: float = at_most("a sequence in two halves minus the whole")
    constrained: float | None = at_most("distance of each matrix from the orthogonal ones, after an optimizer step")
    copied: float = at_most("difference of outputs after copying, pickling, or saving and loading a layer", 0.0)
    accepted: float = at_most("unknown options that were not refused", 0.0)


def check_cell(
    cell: Cell,
    input_size: int = 3,
    hidden_size: int = 4,
    *,
    dtype: torch.dtype = torch.float64,
    steps: int = 6,
    batch: int = 3,
    backends: Sequence[str] | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    seed: int = 0,
    strict: bool = False,
) -> CellReport:
    r"""Measure whether a cell fulfils its contract, and whether all scans of it agree.

    Parameters
    ----------
    cell : Cell
        The unbound cell.
    input_size, hidden_size : int
        Number of features of the input, and of the state.
    dtype : torch.dtype
        ``torch.float64`` or ``torch.complex128``, the dtype of the weights.
    steps, batch : int
        Number of time steps, at least 2, and of sequences.
    backends : sequence of str, optional
        Scans to compare with the plain loop, see `manifold_rnn.nn.scan.run`. A scan that cannot run the cell is
        skipped. Default: all except "compiled", which takes up to a minute.
    rtol : float
        Bound of the relative error of derivatives.
    atol : float
        Bound of the numbers that are 0 up to rounding errors.
    seed : int
        Seed of the random numbers; the state of torch's generator is restored.
    strict : bool
        Whether to raise `CheckError` if a number is out of bounds.

    Returns
    -------
    CellReport
        ``constrained`` is None if the cell has no recurrent matrix.

    Raises
    ------
    CheckError
        With ``strict``, if a number is out of bounds.

    Notes
    -----
    Weights are those of ``reset``, plus normal numbers of standard deviation 0.3, so that no term is 0. Every scan runs
    a padded batch, and a packed batch in reverse. If a shape is wrong, the numbers that need it are infinite.

    Examples
    --------
    >>> report = mr.testing.check_cell(mr.nn.cells.Elman("modrelu"), dtype=torch.complex128)
    >>> print(str(report).splitlines()[0])
    check_cell(Elman): ok
    """
    with seeded(seed):
        case = _Case(cell, input_size, hidden_size, dtype, steps, batch)
        shapes = case.wrong_shapes()
        sound = not shapes
        names = [name for name in BACKENDS if name != _COMPILED] if backends is None else list(backends)
        report = CellReport(
            "check_cell",
            type(cell).__name__,
            atol,
            rtol=rtol,
            shapes=float(shapes),
            reset=float(case.wrong_entries()),
            gradient=case.gradient_error() if sound else math.inf,
            backends=max((case.disagreement(name) for name in names), default=0.0) if sound else math.inf,
            batch=case.row_difference() if sound else math.inf,
            halves=case.halves_difference() if sound else math.inf,
            constrained=None if not cell.gates else or_infinite(case.defect),
            copied=case.copy_difference() if sound else math.inf,
            accepted=float(sum(not refuses(option) for option in _unknown_options(cell))),
        )
    return report.require() if strict else report


class _Case:
    """A cell with random weights, inputs and an initial state."""

    def __init__(self, cell: Cell, m: int, n: int, dtype: torch.dtype, steps: int, batch: int) -> None:
        self.cell, self.m, self.n, self.dtype, self.steps, self.batch = cell, m, n, dtype, steps, batch
        self.weights = self.drawn()
        for weight in self.weights.values():
            weight.add_(0.3 * torch.randn_like(weight))
        self.W = self.weights["weight_hh"]
        self.bound = cell.bind(self.weights)
        x = torch.randn(steps, batch, m, dtype=torch.float64)
        self.x = self._small(x.to(dtype))
        state = self.bound.initial_state(batch)
        self.state = tuple(s + 0.3 * torch.randn_like(s) for s in state)

    def drawn(self, generator: torch.Generator | None = None, fill: float = 0.0) -> dict[str, Tensor]:
        """Return initialized weights."""
        weights = dict(self.cell.allocate(self.m, self.n, dtype=self.dtype))
        for weight in weights.values():
            weight.fill_(fill)
        self.cell.bind(weights).reset(generator)
        return {name: weight.detach() for name, weight in weights.items()}

    def _small(self, x: Tensor) -> Tensor:
        """Return the inputs, scaled to the largest for which states stay bounded."""
        if self.cell.largest_input == math.inf:
            return x
        sizes = torch.linalg.vector_norm(self.bound.project(x), dim=-1) * max(1.0, float(torch.linalg.norm(self.W)))
        return x * min(1.0, self.cell.largest_input / float(sizes.max()))
