"""Check of a cell."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..linalg import defect
from ..manifolds import Orthogonal, Unitary
from ..nn import Layer
from ..nn.cells import Cell
from ..nn.cells.base import State
from ..nn.scan import reference, run
from ..nn.scan.backends import BACKENDS
from ..optim import RiemannianAdam
from .report import Report, at_most
from .sample import difference, directional_error, largest, or_infinite, refuses, seeded, worst

_SHAKE, _HALVINGS = 0.3, 30
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
    readout: float = at_most("the last output minus the first part of the last state")
    batch: float = at_most("one row of a batch minus the same sequence alone")
    halves: float = at_most("a sequence in two halves minus the whole")
    constrained: float | None = at_most("distance of each matrix from the orthogonal ones, after an optimizer step")
    copied: float = at_most("difference of outputs after copying, or saving and loading a layer", 0.0)
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
    a padded batch and a packed batch in reverse. If the cell has one recurrent matrix, it also runs a padded batch with
    the diagonal of this matrix. If a shape is wrong, the numbers that need it are infinite.

    Examples
    --------
    >>> report = mr.testing.check_cell(mr.nn.cells.Elman("modrelu"), dtype=torch.complex128)
    >>> assert report.ok and report.constrained < 1e-12
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
            backends=largest(map(case.disagreement, names)) if sound else math.inf,
            readout=case.readout_difference() if sound else math.inf,
            batch=case.row_difference() if sound else math.inf,
            halves=case.halves_difference() if sound else math.inf,
            constrained=None if not cell.gates else or_infinite(case.defect),
            copied=case.copy_difference() if sound else math.inf,
            accepted=float(sum(not refuses(option) for option in _unknown_options(cell))),
        )
    return report.require() if strict else report


class _Case:
    """A cell with random weights and inputs."""

    def __init__(self, cell: Cell, m: int, n: int, dtype: torch.dtype, steps: int, batch: int) -> None:
        self.cell, self.m, self.n, self.dtype, self.steps, self.batch = cell, m, n, dtype, steps, batch
        self.weights = self._drawn(0.0)
        for weight in self.weights.values():
            weight.add_(_SHAKE * torch.randn_like(weight))
        self.bound = cell.bind(self.weights)
        self.x = torch.randn(steps, batch, m, dtype=torch.float64).to(dtype)
        self._bound_inputs()

    def _drawn(self, fill: float, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Return initialized weights, whose entries were ``fill`` before."""
        weights = {
            name: torch.full_like(weight.detach(), fill)
            for name, weight in self.cell.allocate(self.m, self.n, dtype=self.dtype).items()
        }
        self.cell.bind(weights).reset(generator)
        return weights

    def _bound_inputs(self) -> None:
        """Reduce the weights of the inputs until states stay bounded, for a cell that multiplies states."""
        for _ in range(_HALVINGS if self.cell.largest_input < math.inf else 0):
            size = float(torch.linalg.vector_norm(self.bound.project(self.x), dim=-1).max())
            if size * max(1.0, float(torch.linalg.norm(self.W))) <= self.cell.largest_input:
                return
            for name, weight in self.weights.items():
                if name != "weight_hh":
                    weight.mul_(0.5)

    @property
    def W(self) -> Tensor:
        """The recurrent matrix."""
        return self.bound.weights["weight_hh"]

    def wrong_shapes(self) -> int:
        """Count the tensors with a wrong shape or dtype: matrix, inputs, states, outputs."""
        state, u = self.bound.initial_state(self.batch), self.bound.project(self.x)
        one = (self.batch, self.n)
        wrong = [u.shape[:2] != self.x.shape[:2], state[0].shape != one]
        wrong += [part.shape[:1] != (self.batch,) for part in state]
        if self.cell.gates:
            wrong.append(self.W.shape != (len(self.cell.gates) * self.n, self.n))
        if not any(wrong):
            y, new = self.bound.step(u[0], state, self.W)
            wrong += [y.shape != one or y.dtype != self.dtype, len(new) != len(state)]
            wrong += [a.shape != b.shape or a.dtype != b.dtype for a, b in zip(state, new, strict=False)]
        return sum(wrong)

    def wrong_entries(self) -> int:
        """Count the entries that `reset` leaves unset, or draws differently with equal generators."""
        one, two = (self._drawn(math.nan, torch.Generator().manual_seed(1)) for _ in range(2))
        unset = sum(int((~weight.isfinite()).sum()) for weight in one.values())
        return unset + sum(int((one[name] != two[name]).sum()) for name in one if bool(one[name].isfinite().all()))

    def start(self) -> State:
        """Return a state after two steps, since a random one may be impossible."""
        state = self.bound.initial_state(self.batch)
        return reference(self.bound, self.bound.project(self.x[:2]), state, self.W)[1]

    def run(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run the cell as a layer does by default."""
        y, last = run(self.bound, x, state, self.W)
        assert y is not None
        return y, last

    def readout_difference(self) -> float:
        """Return the difference of the last output and the first part of the last state."""
        y, last = self.run(self.x, self.start())
        return difference([y[-1]], [last[0]])

    def row_difference(self) -> float:
        """Return the difference of one sequence alone and in the batch."""
        state = self.start()
        y, last = self.run(self.x, state)
        gaps = []
        for k in range(self.batch):
            alone, end = self.run(self.x[:, k : k + 1], tuple(part[k : k + 1] for part in state))
            gaps.append(difference([alone, *end], [y[:, k : k + 1], *(part[k : k + 1] for part in last)]))
        return largest(gaps)

    def halves_difference(self) -> float:
        """Return the difference of a sequence in two parts and the whole."""
        half, state = self.steps // 2, self.start()
        y, last = self.run(self.x, state)
        first, between = self.run(self.x[:half], state)
        second, end = self.run(self.x[half:], between)
        return difference([torch.cat([first, second]), *end], [y, *last])

    def gradient_error(self) -> float:
        """Return the relative error of the gradients by inputs and weights in the plain loop."""
        names, state = list(self.weights), self.start()
        along = torch.randn(self.steps, self.batch, self.n, dtype=self.dtype)

        def f(values: Sequence[Tensor]) -> Tensor:
            cell = self.cell.bind(dict(zip(names, values[1:], strict=True)))
            y, last = reference(cell, cell.project(values[0]), state, cell.weights["weight_hh"])
            return (along.conj() * y).real.sum() + sum(part.abs().square().sum() for part in last)

        return directional_error(f, [self.x, *self.weights.values()])

    def disagreement(self, backend: str) -> float:
        """Return the relative difference of one scan and the plain loop, with gradients; 0 if it cannot run."""
        lengths = torch.linspace(self.steps, 1, self.batch).long()
        sizes = [int((lengths > t).sum()) for t in range(self.steps)]
        packed = torch.cat([x[:size] for x, size in zip(self.x, sizes, strict=True)])
        cases: list[tuple[Tensor, dict[str, Any]]] = [(self.x, {}), (packed, {"batch_sizes": sizes, "reverse": True})]
        if len(self.cell.gates) == 1:
            cases.append((self.x, {"diagonal": True}))
        gaps = []
        for x, options in cases:
            try:
                values = self._values(x, backend, options)
            except UnsupportedError:
                continue
            expected = self._values(x, "reference", options)
            gaps.append(difference(values, expected) / max(1.0, *map(worst, expected)))
        return largest(gaps)

    @torch.enable_grad()
    def _values(self, x: Tensor, backend: str, options: dict[str, Any]) -> list[Tensor]:
        """Return outputs, the last state, and the gradients of a function of them."""
        leaves = {name: weight.clone().requires_grad_() for name, weight in self.weights.items()}
        weights = dict(leaves)
        if "diagonal" in options:
            leaves["weight_hh"] = self.W.diagonal().clone().requires_grad_()
            weights["weight_hh"] = leaves["weight_hh"].diag()
        x, state = x.clone().requires_grad_(), tuple(part.clone().requires_grad_() for part in self.start())
        cell = self.cell.bind(weights)
        y, last = run(cell, x, state, cell.weights["weight_hh"], backend=backend, **options)
        assert y is not None
        loss = torch.stack([_smooth_sum(part) for part in (y, *last)]).sum()
        gradients = torch.autograd.grad(loss, [x, *state, *leaves.values()], materialize_grads=True)
        return [y.detach(), *(part.detach() for part in last), *gradients]

    def layer(self, **options: Any) -> Layer:
        """Return a layer of the cell."""
        return Layer(self.cell, self.m, self.n, dtype=self.dtype, **options)

    def copy_difference(self) -> float:
        """Return the difference of the outputs of a layer and its copies."""
        layer, new = self.layer(), self.layer()
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        new.load_state_dict(torch.load(file, weights_only=True))
        y = layer(self.x)[0]
        return largest(difference([copied(self.x)[0]], [y]) for copied in (new, copy.deepcopy(layer)))

    def defect(self) -> float:
        """Return the distance of the matrices of a layer from the orthogonal ones, after a step in each view."""
        gaps = []
        for view in ("update", "trivialized"):
            layer = self.layer(constraint=Unitary() if self.dtype.is_complex else Orthogonal(), view=view)
            optimizer = RiemannianAdam(layer.parameters(), lr=0.1)
            with torch.enable_grad():
                layer(self.x)[0].abs().square().sum().backward()
            optimizer.step()
            matrices = layer.weights("_l0")["weight_hh"].detach().as_subclass(Tensor)
            gaps.append(worst(defect(matrices.unflatten(0, (len(self.cell.gates), self.n)))))
        return largest(gaps)


def _smooth_sum(x: Tensor) -> Tensor:
    """Return a real function of a tensor whose gradient differs in every entry."""
    return x.real.sin().sum() + x.imag.cos().sum() if x.is_complex() else x.sin().sum()


def _unknown_options(cell: Cell) -> Iterator[Callable[[], object]]:
    """Yield calls that set an option of the cell to a value that it cannot have."""
    for name in cell.options():
        value = vars(cell)[name]
        if isinstance(value, str) or type(value) is float:
            bad = _UNKNOWN if isinstance(value, str) else math.nan
            yield partial(dataclasses.replace, cell, **{name: bad})
