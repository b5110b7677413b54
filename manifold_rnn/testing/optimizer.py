"""Check of an optimizer on a manifold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import geoopt
import torch
from torch import Tensor
from torch.optim import Optimizer

from ..manifolds import Manifold
from .report import Report, at_most
from .sample import adapted_with_points, random_tangent, seeded, worst


@dataclass(frozen=True)
class OptimizerReport(Report):
    """The result of `check_optimizer`.

    Attributes
    ----------
    ratio : float
        Bound of the loss after all steps, relative to the loss before.

    Examples
    --------
    >>> report = mr.testing.check_optimizer(lambda p: mr.optim.RiemannianSGD(p, lr=0.1), mr.Orthogonal())
    >>> assert report.loss_ratio < 0.1 and report.defect < 1e-9
    """

    ratio: float
    defect: float = at_most("largest distance from the manifold over all steps")
    first_step: float = at_most("loss after one step / loss before", 1.0)
    loss_ratio: float = at_most("loss after all steps / loss before", "ratio")
    plain_ratio: float = at_most("the same for a plain parameter in the same group", "ratio")
    without_gradient: float = at_most("movement of a parameter that has no gradient", 0.0)
    at_zero_gradient: float = at_most("movement of a point whose gradient is zero")


def check_optimizer(
    make_optimizer: Callable[[Sequence[Tensor]], Optimizer],
    manifold: geoopt.Manifold,
    x: Tensor | None = None,
    *,
    steps: int = 100,
    ratio: float = 0.5,
    atol: float = 1e-9,
    seed: int = 0,
    strict: bool = False,
) -> OptimizerReport:
    r"""Measure whether an optimizer decreases a loss on a manifold without leaving the manifold.

    The problem is to find a point :math:`y` near the start:

    .. math:: \min_x \tfrac12 \|x - y\|^2 + \tfrac12\|p\|^2.

    There is also a plain parameter ``p`` in the same group.

    Parameters
    ----------
    make_optimizer : callable
        Maps a list of parameters to an optimizer, e.g. ``lambda params: RiemannianAdam(params, lr=0.01)``.
    manifold : geoopt.Manifold
        A manifold of this package or of geoopt.
    x : Tensor, optional
        Starting points. They are projected in double precision, in which everything is computed. Default: two random
        points.
    steps : int
        Number of steps.
    ratio : float
        Bound of the loss after all steps, relative to the loss before.
    atol : float
        Bound of the numbers that are 0 up to rounding errors.
    seed : int
        Seed of the random vectors; the state of torch's generator is restored.
    strict : bool
        Whether to raise `CheckError` if a number is out of bounds.

    Returns
    -------
    OptimizerReport

    Raises
    ------
    CheckError
        With ``strict``, if a number is out of bounds.

    Examples
    --------
    >>> import geoopt
    >>> assert mr.testing.check_optimizer(lambda p: geoopt.optim.RiemannianSGD(p, lr=0.1), mr.Orthogonal()).ok
    """
    with seeded(seed):
        m, x = adapted_with_points(manifold, x)
        target = m.retr(x, 0.5 * random_tangent(m, x))
        point = geoopt.ManifoldParameter(x.clone(), manifold=manifold)
        plain = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer = make_optimizer([point, plain])
        losses, defect = [_losses(point, plain, target)], 0.0
        for _ in range(steps):
            point.grad, plain.grad = (point - target).detach().as_subclass(Tensor), plain.detach().clone()
            optimizer.step()
            losses.append(_losses(point, plain, target))
            defect = max(defect, worst(m.defect(point.detach().as_subclass(Tensor))))
        report = OptimizerReport(
            "check_optimizer",
            f"{type(optimizer).__name__} on {type(manifold).__name__}",
            atol,
            ratio=ratio,
            defect=defect,
            first_step=_quotient(losses[1][0], losses[0][0]),
            loss_ratio=_quotient(losses[-1][0], losses[0][0]),
            plain_ratio=_quotient(losses[-1][1], losses[0][1]),
            without_gradient=_moved(make_optimizer, manifold, x, None),
            at_zero_gradient=_moved(make_optimizer, manifold, x, torch.zeros_like(x)),
        )
    return report.require() if strict else report


def _losses(point: Tensor, plain: Tensor, target: Tensor) -> tuple[float, float]:
    both = (torch.linalg.vector_norm(t.detach().as_subclass(Tensor)) for t in (point - target, plain))
    first, second = (0.5 * float(t) ** 2 for t in both)
    return first, second


def _quotient(after: float, before: float) -> float:
    return after / before if before else after


def _moved(make: Callable[[Sequence[Tensor]], Optimizer], manifold: Manifold, x: Tensor, grad: Tensor | None) -> float:
    point = geoopt.ManifoldParameter(x.clone(), manifold=manifold)
    other = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    point.grad, other.grad = grad, torch.ones_like(other)
    make([point, other]).step()
    return worst(point.detach().as_subclass(Tensor) - x)
