"""Check of a manifold: projections, metric, transport, exponential, logarithm and coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import geoopt
import torch
from torch import Tensor

from ..manifolds import Manifold
from .report import Report, at_most, measured
from .sample import adapted_with_points, inner, random_tangent, refusable, seeded, worst


@dataclass(frozen=True)
class ManifoldReport(Report):
    """The result of `check_manifold`.

    Examples
    --------
    >>> report = mr.testing.check_manifold(mr.Unitary())
    >>> assert report.defect < 1e-12 and report.transport_isometry < 1e-12
    """

    defect: float = at_most("distance of the points from the manifold")
    projx_idempotent: float = at_most("|projx(projx(y)) - projx(y)|")
    proju_idempotent: float = at_most("|P P g - P g| for the projection P on the tangent space")
    self_adjoint: float = at_most("|<P u, v> - <u, P v>| in the metric")
    gradient_tangent: float = at_most("distance of egrad2rgrad(g) from the tangent space")
    riesz: float = at_most("|<egrad2rgrad(g), v> - Re sum conj(g) v| for tangent v")
    transport_tangent: float | None = at_most("distance of a transported vector from the tangent space there")
    transport_isometry: float | None = measured("|<T u, T v> - <u, v>|; 0 for an isometric transport")
    exp_log: float | None = at_most("|logmap(x, expmap(x, u)) - u|")
    coordinates: float = at_most("|from_coordinates(to_coordinates(u)) - u|")


def check_manifold(
    manifold: geoopt.Manifold, x: Tensor | None = None, *, atol: float = 1e-9, seed: int = 0, strict: bool = False
) -> ManifoldReport:
    r"""Measure whether a manifold obeys the laws that optimizers rely on.

    With :math:`P_x` = ``proju``, and random ambient ``u, v``:

    .. math::
        P_x P_x = P_x, \qquad \langle P_x u, v\rangle_x = \langle u, P_x v\rangle_x, \qquad
        \langle \operatorname{egrad2rgrad}(g), v\rangle_x = \operatorname{Re}\sum \bar g\, v.

    It also measures that ``projx`` is a projection, that ``egrad2rgrad`` and ``transp`` return tangent vectors, and
    that ``logmap`` inverts ``expmap``.

    Parameters
    ----------
    manifold : geoopt.Manifold
        A manifold of this package or of geoopt.
    x : Tensor, optional
        Points. They are projected in double precision, in which everything is computed. Default: two random points.
    atol : float
        Bound of every number, for vectors of norm 1.
    seed : int
        Seed of the random vectors; the state of torch's generator is restored.
    strict : bool
        Whether to raise `CheckError` if a number is out of bounds.

    Returns
    -------
    ManifoldReport

    Raises
    ------
    CheckError
        With ``strict``, if a number is out of bounds.

    Notes
    -----
    Source: Absil, Mahony and Sepulchre (2008), chapters 3 and 5.

    Examples
    --------
    >>> import geoopt
    >>> assert mr.testing.check_manifold(geoopt.EuclideanStiefel()).ok
    """
    with seeded(seed):
        m, x = adapted_with_points(manifold, x)
        g, h = (_unit(torch.randn_like(x)) for _ in range(2))
        u, v = random_tangent(m, x), random_tangent(m, x)
        y = m.retr(x, 0.5 * u)
        near, r = m.projx(x + 0.1 * g), m.egrad2rgrad(x, g)
        report = ManifoldReport(
            "check_manifold",
            type(manifold).__name__,
            atol,
            defect=max(worst(m.defect(p)) for p in (x, y, near)),
            projx_idempotent=worst(m.projx(near) - near),
            proju_idempotent=worst(m.proju(x, m.proju(x, g)) - m.proju(x, g)),
            self_adjoint=worst(inner(m, x, m.proju(x, g), h) - inner(m, x, g, m.proju(x, h))),
            gradient_tangent=worst(m.proju(x, r) - r),
            riesz=worst(inner(m, x, r, v) - _ambient(m, x, g, v)),
            transport_tangent=refusable(lambda: worst(m.proju(y, m.transp(x, y, u)) - m.transp(x, y, u))),
            transport_isometry=refusable(
                lambda: worst(inner(m, y, m.transp(x, y, u), m.transp(x, y, v)) - inner(m, x, u, v))
            ),
            exp_log=refusable(lambda: worst(m.logmap(x, m.expmap(x, 0.5 * u)) - 0.5 * u)),
            coordinates=worst(m.from_coordinates(x, m.to_coordinates(x, u)) - u),
        )
    return report.require() if strict else report


def _unit(g: Tensor) -> Tensor:
    return g / torch.linalg.vector_norm(g) if g.numel() else g


def _ambient(m: Manifold, x: Tensor, g: Tensor, v: Tensor) -> Tensor:
    """Return ``Re sum conj(g) v`` over the axes of one point, in the shape of ``inner``."""
    product = (g.conj() * v).real
    return product.sum(tuple(range(-m.ndim, 0)), keepdim=True) if m.ndim else product
