"""Estimation in rounds. Each round fits the moments of what the previous model does not explain."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import OptionError
from .batches import Batches, Estimates
from .conditions import Conditions
from .decomposition import (
    Moment,
    Parts,
    Subspace,
    cross_moment,
    decompose,
    rebuilt,
    recurrent_weights,
    smallest_singular_value,
    subspace,
)
from .result import Residual, outputs
from .scores import Scores


@dataclass(frozen=True)
class Model:
    """The network estimated by a round, and the coordinates of its directions."""

    directions: Tensor  # in the coordinates of the scores, (n, p)
    A: Tensor
    U: Tensor
    C: Tensor

    def predict(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Return the outputs without the offset."""
        return outputs(x0, x1, self.A, self.U, self.C)


@dataclass(frozen=True)
class Round:
    """A model, and the numbers that show how accurate it is."""

    model: Model
    U_error_given_AC: Tensor
    offset: Tensor
    r2: float
    span: Subspace
    residuals: dict[str, Residual]
    smallest: tuple[float, float]  # smallest singular value of the directions, and its standard error


def second_moment(
    data: Batches, scores: Scores, known: Estimates, model: Model | None = None, conditions: Conditions | None = None
) -> Moment:
    """Return T (k, p, p), and measure the conditions on the inputs.

    If there is a model, its prediction is subtracted from y first, and its T is added afterwards. This keeps the
    expectation, and only the noise of the residual remains.
    """
    sums, p = _Sums(), scores.to_inputs.shape[1]
    for x0, x1, y in data:
        rest = y - known.y_mean
        if model is not None:
            rest = rest - model.predict(x0, x1)
        sums.add(rest, scores.second(x1).flatten(1))
        if conditions is not None:
            conditions.add(scores.conditions(x0, x1))
    T = sums.moment(known.sequences, (len(known.y_mean), p, p))
    return T if model is None else Moment(T.value + rebuilt(model.directions, model.C), T.error)


def estimate(
    data: Batches,
    scores: Scores,
    known: Estimates,
    T: Moment,
    previous: Model | None,
    *,
    hidden: int | None,
    draws: int,
    seed: int,
    strict: bool,
) -> Round:
    """Return the model estimated from T, and D; a previous model reduces the noise of both."""
    span = subspace(T, hidden)
    within = _within(T, span.basis)
    parts = decompose(within, draws, torch.Generator().manual_seed(seed), strict=strict)
    parts, A = _in_order(parts, scores.to_inputs @ span.basis)
    C, directions = parts.C.to(data.device), parts.directions.to(data.device) @ span.basis.mT
    n = len(C)
    known_part = previous or Model(directions, A, A.new_zeros(n, n), C)
    D = _cross_moment(data, scores, known, span.basis, known_part)
    U, U_error_given_AC, D_rebuilt = recurrent_weights(D, parts)
    model = Model(directions, A, U.to(data.device), C)
    offset, r2 = _explained(data, known, model)
    residuals = {
        "T": Residual(_relative(T.value, rebuilt(directions, C)), T.noise()),
        "D": Residual(_relative(D.value, D_rebuilt), D.noise()),
    }
    smallest = smallest_singular_value(within, parts)
    return Round(model, U_error_given_AC.to(data.device), offset, r2, span, residuals, smallest)


def _within(T: Moment, basis: Tensor) -> Moment:
    """Return T in a subspace, on the CPU, where small matrices are fastest; errors are averaged for each output."""
    value = basis.mT @ T.value @ basis
    error = T.error.square().mean((1, 2), keepdim=True).sqrt().expand_as(value)
    return Moment(value.cpu(), error.cpu())


def _in_order(parts: Parts, to_inputs: Tensor) -> tuple[Parts, Tensor]:
    """Return the parts sorted by decreasing rows of C, with positive largest entries of directions, and A."""
    order = parts.C.norm(dim=1).argsort(descending=True, stable=True)
    a, C = parts.directions[order], parts.C[order]
    A = a.to(to_inputs.device) @ to_inputs.mT
    largest = A.gather(1, A.abs().argmax(1, keepdim=True))
    return Parts(a * largest.sign().to(a.device), C), A * largest.sign()


def _cross_moment(data: Batches, scores: Scores, known: Estimates, basis: Tensor, model: Model) -> Moment:
    """Return D (k, n, n, n) in the subspace, on the CPU, with the model subtracted before and added afterwards."""
    sums, n = _Sums(), basis.shape[1]
    for x0, x1, y in data:
        rest = y - known.y_mean - model.predict(x0, x1)
        left = rest[:, :, None] * (scores.first(x1) @ basis)[:, None]
        sums.add(left.flatten(1), scores.second(x0, basis).flatten(1))
    value, error = sums.moment(known.sequences, (len(known.y_mean), n, n, n))
    value = value + cross_moment(model.directions @ basis, model.U, model.C)
    return Moment(value.cpu(), error.cpu())


def _explained(data: Batches, known: Estimates, model: Model) -> tuple[Tensor, float]:
    """Return the offset of the outputs, and R2."""
    total, squares = torch.zeros_like(known.y_mean), torch.zeros_like(known.y_mean)
    for x0, x1, y in data:
        rest = y - known.y_mean - model.predict(x0, x1)
        total, squares = total + rest.sum(0), squares + rest.square().sum(0)
    mean = total / known.sequences
    variance = (squares / known.sequences - mean.square()).clamp(min=0)
    return known.y_mean + mean, float(1 - variance.sum() / known.y_variance.sum().clamp(min=1e-300))


class _Sums:
    """Sums of products and of their squares over the pieces of the data."""

    def __init__(self) -> None:
        self._count = 0
        self._total = self._squares = torch.zeros(())

    def add(self, left: Tensor, right: Tensor) -> None:
        self._count += len(left)
        self._total = left.mT @ right + self._total.to(left)
        self._squares = left.square().mT @ right.square() + self._squares.to(left)

    def moment(self, expected: int, shape: tuple[int, ...]) -> Moment:
        if self._count != expected:
            raise OptionError(
                "Each pass over the batches must read the same sequences.\n"
                f"Expected {expected:,}, got {self._count:,} in a later pass.\n"
                "Pass a list, or a DataLoader of a fixed set."
            )
        value = self._total / self._count
        error = (self._squares / self._count - value.square()).clamp(min=0).div(self._count).sqrt()
        return Moment(value.reshape(shape), error.reshape(shape))


def _relative(value: Tensor, rebuilt: Tensor) -> float:
    return float((value - rebuilt).norm() / value.norm().clamp(min=1e-300))
