"""Check of a retraction: its order, its values and its inverse."""

from __future__ import annotations

from dataclasses import dataclass

import geoopt
import torch
from torch import Tensor

from ..errors import ManifoldError
from ..manifolds import Manifold
from .report import Report, at_least, at_most
from .sample import adapted_with_points, random_tangent, refusable, seeded, slope, worst


@dataclass(frozen=True)
class RetractionReport(Report):
    """The result of `check_retraction`.

    Attributes
    ----------
    order : int
        The required order.
    needed : float
        The smallest slope of a retraction of this order.

    Examples
    --------
    >>> report = mr.testing.check_retraction(mr.Orthogonal("qr"))
    >>> assert report.order == 1 and 1.9 < report.geodesic_order < 2.9
    """

    order: int
    needed: float
    first_order: float = at_least("slope of |R(t u) - x - t u|: 2 if the derivative at 0 is the identity", 1.9)
    geodesic_order: float = at_least("slope of |R(t u) - exp(t u)|: order + 1", "needed")
    at_zero: float = at_most("|R(0) - x|")
    defect: float = at_most("distance of R(u) from the manifold")
    by_coordinates: float = at_most("|retr_coordinates(x, c) - R(u)|")
    inverse: float | None = at_most("|inverse_retr_coordinates(x, R(u)) - c|")


def check_retraction(
    manifold: geoopt.Manifold,
    x: Tensor | None = None,
    *,
    order: int | None = None,
    atol: float = 1e-9,
    seed: int = 0,
    strict: bool = False,
) -> RetractionReport:
    r"""Measure the order of a manifold's retraction.

    .. math::
        \|R_x(tu) - x - tu\| = O(t^2), \qquad \|R_x(tu) - \exp_x(tu)\| = O(t^{k+1}) \text{ for order } k.

    The orders are the slopes of straight lines through :math:`(\log t, \log \text{error})`. They are fitted in double
    precision over the shortest steps whose errors are above rounding error. If the retraction is the exponential, the
    second slope is infinite.

    Parameters
    ----------
    manifold : geoopt.Manifold
        A manifold of this package or of geoopt; its ``retr`` and ``expmap`` are compared.
    x : Tensor, optional
        Points. They are projected in double precision, in which everything is computed. Default: two random points.
    order : int, optional
        The required order. Default: the order of the retraction's class, or 1 for other manifolds.
    atol : float
        Bound of the numbers that are 0 up to rounding errors.
    seed : int
        Seed of the random vectors; the state of torch's generator is restored.
    strict : bool
        Whether to raise `CheckError` if a number is out of bounds.

    Returns
    -------
    RetractionReport

    Raises
    ------
    CheckError
        With ``strict``, if a number is out of bounds.

    Notes
    -----
    If ``expmap`` is an alias of ``retr``, the second slope has no meaning, but the first one does. Source:
    Absil, Mahony and Sepulchre (2008), definitions 4.1.1 and 5.5.

    Examples
    --------
    >>> import geoopt
    >>> assert not mr.testing.check_retraction(geoopt.CanonicalStiefel()).ok  # its steps are twice too long
    """
    with seeded(seed):
        m, x = adapted_with_points(manifold, x)
        u = random_tangent(m, x)
        c = m.to_coordinates(x, 0.5 * u)
        y = m.retr(x, 0.5 * u)
        order = _claimed(m) if order is None else order
        scale = float(torch.linalg.vector_norm(x))
        report = RetractionReport(
            "check_retraction",
            f"{type(manifold).__name__}{_name(m)}",
            atol,
            order=order,
            needed=order + 0.9,
            first_order=slope(lambda t: m.retr(x, t * u) - x - t * u, scale),
            geodesic_order=slope(lambda t: m.retr(x, t * u) - m.expmap(x, t * u), scale),
            at_zero=worst(m.retr(x, torch.zeros_like(x)) - x),
            defect=worst(m.defect(y)),
            by_coordinates=worst(m.retr_coordinates(x, c) - y),
            inverse=refusable(lambda: worst(m.inverse_retr_coordinates(x, y) - c)),
        )
    return report.require() if strict else report


def _claimed(m: Manifold) -> int:
    try:
        return 1 if m.retraction is None else m.retraction.order(m)
    except ManifoldError:
        return 1


def _name(m: Manifold) -> str:
    return "" if m.retraction is None else f" with {m.retraction.name}"
