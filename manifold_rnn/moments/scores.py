"""Score functions of the inputs: those of a Gaussian with known or estimated moments, or given functions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..errors import ShapeError, UnsupportedError

ScoreFunction: TypeAlias = Callable[[Tensor], Tensor]

_SMALLEST = 1e-10  # relative variance of a direction below which the inputs are constant along it
# skewness of the products below for a Gaussian, so that limits hold for few sequences too
_SKEW_SQUARE, _SKEW_FOURTH, _SKEW_SQUARES = 8**0.5, 216**0.5, 8.0


class Condition(NamedTuple):
    """Products of functions of the inputs, per row. Their expectations are known if the scores match the inputs."""

    left: Tensor  # (N, p)
    right: Tensor  # (N, q)
    expected: Tensor | float  # expectation of left^T right / N
    variance: Tensor | float | None  # variance of each product; None to estimate it
    skewness: float = 0.0


class Scores(ABC):
    r"""The scores :math:`S_1 = -\nabla p/p` and :math:`S_2 = \nabla^2 p/p` of inputs, in their own coordinates.

    Attributes
    ----------
    to_inputs : Tensor, shape (m, p)
        Maps directions in the coordinates of the scores to directions of the inputs.
    """

    to_inputs: Tensor

    @abstractmethod
    def first(self, x: Tensor) -> Tensor:
        """Return the first scores of inputs (N, m), of shape (N, p)."""

    @abstractmethod
    def second(self, x: Tensor, basis: Tensor | None = None) -> Tensor:
        """Return the second scores (N, p, p), or (N, n, n) in the subspace spanned by an orthonormal basis."""

    @abstractmethod
    def conditions(self, x0: Tensor, x1: Tensor) -> dict[str, Condition]:
        """Return the conditions that independent inputs with these scores satisfy, by name."""


class GaussianScores(Scores):
    """The scores of Gaussian inputs: ``z`` and ``z z^T - I`` for whitened inputs ``z``.

    Parameters
    ----------
    mean : Tensor, shape (m,)
        Mean of the inputs.
    covariance : Tensor, shape (m, m)
        Covariance of the inputs.
    estimated : bool
        Whether mean and covariance are estimates from the same inputs.
    """

    def __init__(self, mean: Tensor, covariance: Tensor, *, estimated: bool) -> None:
        self.mean, self.estimated = mean, estimated
        if not estimated:  # whitening is the identity, so that coordinates are those of the inputs
            self.to_inputs = covariance
            return
        variances, axes = torch.linalg.eigh(covariance)
        varying = variances > _SMALLEST * variances[-1]
        if not bool(varying.any()):
            raise UnsupportedError(
                "Moments need inputs that vary.\nExpected a covariance that is not zero, got constant inputs.\n"
                "Pass the inputs of many different sequences."
            )
        self.to_inputs = axes[:, varying] * variances[varying].rsqrt()

    def whiten(self, x: Tensor) -> Tensor:
        """Return the coordinates z, (N, p)."""
        return (x - self.mean) @ self.to_inputs

    def first(self, x: Tensor) -> Tensor:
        return self.whiten(x)

    def second(self, x: Tensor, basis: Tensor | None = None) -> Tensor:
        z = self.whiten(x) if basis is None else self.whiten(x) @ basis
        return z[:, :, None] * z[:, None] - torch.eye(z.shape[1], dtype=z.dtype, device=z.device)

    def conditions(self, x0: Tensor, x1: Tensor) -> dict[str, Condition]:
        z0, z1 = self.whiten(x0), self.whiten(x1)
        one, eye = torch.ones_like(z0[:, :1]), torch.eye(z0.shape[1], dtype=z0.dtype, device=z0.device)
        z = torch.cat([z0, z1])
        squares = z.square() - 1
        third, fourth = (6, 24) if self.estimated else (10, 56)  # estimated moments reduce the variance
        return {
            "E[S1(x0)] = 0": Condition(one, z0, 0.0, 1.0),
            "E[S1(x1)] = 0": Condition(one, z1, 0.0, 1.0),
            "E[S2(x0)] = 0": Condition(z0, z0, eye, 1 + eye, _SKEW_SQUARE),
            "E[S2(x1)] = 0": Condition(z1, z1, eye, 1 + eye, _SKEW_SQUARE),
            "third moments": Condition(z, squares, 0.0, 2 + (third - 2) * eye),
            "fourth moments": Condition(squares, squares, 2 * eye, 4 + (fourth - 4) * eye, _SKEW_FOURTH),
            "x0, x1 uncorrelated": Condition(z0, z1, 0.0, 1.0),
            "squares uncorrelated": Condition(z0.square() - 1, z1.square() - 1, 0.0, 4.0, _SKEW_SQUARES),
        }


class GivenScores(Scores):
    """Scores that are given as functions of the inputs.

    Parameters
    ----------
    first, second : callable
        Map inputs (N, m) in float64 to tensors (N, m) and (N, m, m).
    size : int
        The number m of inputs.
    like : Tensor
        A tensor with the dtype and device of the result.
    """

    def __init__(self, first: ScoreFunction, second: ScoreFunction, size: int, like: Tensor) -> None:
        self._first, self._second = first, second
        self.to_inputs = torch.eye(size, dtype=like.dtype, device=like.device)

    def first(self, x: Tensor) -> Tensor:
        return _as_shape(self._first(x), "The first score", tuple(x.shape), x)

    def second(self, x: Tensor, basis: Tensor | None = None) -> Tensor:
        score = _as_shape(self._second(x), "The second score", (*x.shape, x.shape[-1]), x)
        return score if basis is None else basis.mT @ score @ basis

    def conditions(self, x0: Tensor, x1: Tensor) -> dict[str, Condition]:
        one, eye = torch.ones_like(x0[:, :1]), self.to_inputs
        first, second = self.first(x1), self.second(x1)
        curvature = second.diagonal(0, -2, -1)
        return {
            "E[S1(x1)] = 0": Condition(one, first, 0.0, None),
            "E[S2(x1)] = 0": Condition(one, second.flatten(1), 0.0, None),
            "E[S2(x0)] = 0": Condition(one, self.second(x0).flatten(1), 0.0, None),
            "E[x1 S1(x1)] = I": Condition(x1, first, eye, None),
            "E[x1^2 S2(x1)] = 2 I": Condition(x1.square(), curvature, 2 * eye, None),
            "x0, x1 uncorrelated": Condition(self.first(x0), first, 0.0, None),
        }


def _as_shape(score: object, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
    if not isinstance(score, Tensor) or score.shape != shape:
        got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
        raise ShapeError(
            f"{name} has the wrong shape.\nExpected {shape} for inputs {tuple(like.shape)}, got {got}.\n"
            "The first score is minus the gradient of p over p, and the second its matrix of second derivatives over p."
        )
    return score.to(like)
