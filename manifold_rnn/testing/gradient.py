"""Check of the Riemannian gradient of a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import geoopt
import torch
from torch import Tensor

from ..manifolds import Manifold
from .report import Report, at_least, at_most
from .sample import adapted_with_points, inner, random_tangent, seeded, slope, worst

_STEP = 1e-3  # of the difference quotient of order 4: truncation and rounding errors are both near 1e-12


@dataclass(frozen=True)
class GradientReport(Report):
    """The result of `check_gradient`.

    Attributes
    ----------
    rtol : float
        Bound of the relative error of derivatives.

    Examples
    --------
    >>> report = mr.testing.check_gradient(mr.Orthogonal())
    >>> assert report.descent < 1e-6 and report.taylor > 1.9
    """

    rtol: float
    descent: float = at_most("relative error of d/dt f(R(-t grad)) = -|grad|^2", "rtol")
    taylor: float = at_least("slope of |f(R(t v)) - f(x) - t <grad, v>|: 2", 1.9)
    tangent: float = at_most("distance of the gradient from the tangent space, relative")
    by_coordinates: float = at_most("|egrad2coordinates(g) - to_coordinates(egrad2rgrad(g))|, relative")


def check_gradient(
    manifold: geoopt.Manifold,
    f: Callable[[Tensor], Tensor] | None = None,
    x: Tensor | None = None,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    seed: int = 0,
    strict: bool = False,
) -> GradientReport:
    r"""Measure whether the Riemannian gradient is the gradient of the function along the retraction.

    .. math::
        \frac{d}{dt} f(R_x(-t \operatorname{grad} f))\Big|_{t=0} = -\|\operatorname{grad} f\|^2, \qquad
        f(R_x(tv)) = f(x) + t\,\langle\operatorname{grad} f, v\rangle + O(t^2).

    Parameters
    ----------
    manifold : geoopt.Manifold
        A manifold of this package or of geoopt.
    f : callable, optional
        Maps points to one real number, or to one for each point of the batch. Default: a random polynomial.
    x : Tensor, optional
        Points. They are projected in double precision, in which everything is computed. Default: two random points.
    rtol : float
        Bound of the relative error of the derivative.
    atol : float
        Bound of the numbers that are 0 up to rounding errors.
    seed : int
        Seed of the random vectors; the state of torch's generator is restored.
    strict : bool
        Whether to raise `CheckError` if a number is out of bounds.

    Returns
    -------
    GradientReport

    Raises
    ------
    CheckError
        With ``strict``, if a number is out of bounds.

    Notes
    -----
    The derivative is a difference quotient of order 4 along the curve, so it does not depend on autograd.
    Source: Boumal (2023), section 4.8.

    Examples
    --------
    >>> a = torch.randn(4, 4, dtype=torch.float64)
    >>> assert mr.testing.check_gradient(mr.Orthogonal(), lambda x: (a @ x @ a @ x.mT).sum()).ok
    """
    with seeded(seed):
        m, x = adapted_with_points(manifold, x)
        f = f or _polynomial(x)
        g = _egrad(f, x)
        grad, v = m.egrad2rgrad(x, g), random_tangent(m, x)
        size2 = float(_total(m, x, grad, grad))
        size = size2**0.5 or 1.0
        down, along = -grad / size, _total(m, x, grad, v)
        report = GradientReport(
            "check_gradient",
            type(manifold).__name__,
            atol,
            rtol=rtol,
            descent=abs(_derivative(lambda t: _sum(f(m.retr(x, t * down)))) + size2 / size) / size,
            taylor=slope(lambda t: _sum(f(m.retr(x, t * v))) - _sum(f(x)) - t * along, max(size, worst(_sum(f(x))))),
            tangent=worst(m.proju(x, grad) - grad) / size,
            by_coordinates=worst(m.egrad2coordinates(x, g) - m.to_coordinates(x, grad)) / size,
        )
    return report.require() if strict else report


def _polynomial(x: Tensor) -> Callable[[Tensor], Tensor]:
    a, b = torch.randn_like(x), torch.randn_like(x)
    return lambda y: (a.conj() * y).real.sum() + ((b.conj() * y).real.square() * y.abs()).sum()


def _egrad(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.enable_grad():
        y = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(_sum(f(y)), y)
    return g


def _sum(value: Tensor) -> Tensor:
    return value.sum()


def _total(m: Manifold, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return inner(m, x, u, v).sum()


def _derivative(f: Callable[[float], Tensor]) -> float:
    h = _STEP
    return float((8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h))
