"""One step of a leaky recurrence with its derivatives, and the gradients that a rule computes from them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..nn.cells import Cell
from ..nn.cells.leaky_form import LeakyForm
from .influence import Influence, Linearization


@dataclass(frozen=True, eq=False)
class Recurrence:
    """A cell with its weights, in leaky form."""

    cell: Cell
    form: LeakyForm

    @property
    def W(self) -> Tensor:
        """The recurrent matrix."""
        return self.cell.weights["weight_hh"]

    @property
    def columns(self) -> int:
        """The number of columns of ``[W V b]``."""
        n, m = self.cell.weights["weight_ih"].shape
        return n + m + 1

    def influence(self, kind: type[Influence], batch: int) -> Influence:
        """Return the influence for an initial state that does not depend on the weights."""
        return kind(batch, len(self.W), self.columns, self.W)

    def next_state(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the state (B, n) after the input (B, m)."""
        return self.cell.step(self.cell.project(x), (h,), self.W)[0]

    def next_state_with(self, influence: Influence, x: Tensor, h: Tensor) -> Tensor:
        """Return the same state, and update the influence."""
        a, W = self.form.leak, self.W
        z = self.cell.project(x) + h @ W.mT
        f = self.form.activate(z)
        slope, threshold_slope = self.form.slopes(z, f)
        one = torch.ones_like(h[:, :1]) if threshold_slope is None else torch.zeros_like(h[:, :1])
        row = torch.cat([h, x, one], -1)
        direct = None if threshold_slope is None else a * threshold_slope
        influence.advance(Linearization(1 - a, a * slope, row, W, direct))
        return (1 - a) * h + a * f

    def gradients(self, of_all: Tensor) -> dict[str, Tensor]:
        """Return the gradient of each weight by name, given that of ``[W V b]``."""
        W, V, b = of_all.split([len(self.W), of_all.shape[1] - len(self.W) - 1, 1], -1)
        thresholds = () if self.form.threshold is None else (self.form.threshold,)
        found = {"weight_hh": W, "weight_ih": V}
        return found | {name: b.squeeze(-1) for name in (*self.form.biases, *thresholds)}


def recurrence_of(cell: Cell) -> Recurrence | None:
    """Return the recurrence of a bound cell, or None if it has no leaky form."""
    form = cell.leaky_form() if cell.steps_match("leaky_form") else None
    return None if form is None else Recurrence(cell, form)
