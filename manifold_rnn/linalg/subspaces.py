"""Pairs of subspaces: the nearest representative, principal angles, logarithm and parallel transport."""

import numpy as np
import torch
from torch import Tensor

from ..errors import OffManifoldError
from .checks import on_numbers, require_finite
from .lu import inverse as inverse_of
from .norms import without_vanishing
from .polar import polar
from .product import multiply

_RULE = [((1 + t) / 2, w / 2) for t, w in zip(*np.polynomial.legendre.leggauss(14), strict=True)]  # on [0, 1]
_SQUARES, _WEIGHTS = [float(t * t) for t, _ in _RULE], [2 * float(w) for _, w in _RULE]
_GAP = 16.0  # a cosine within this many roundings, times the number of columns, counts as 0


def horizontal(x: Tensor, u: Tensor) -> Tensor:
    """Return the part of a vector orthogonal to the columns of ``x``; exactly 0 if these span the whole space."""
    if x.shape[-2] == x.shape[-1]:
        return (u - u).expand(torch.broadcast_shapes(x.shape, u.shape))
    return u - multiply(x, multiply(x.mH, u))


def aligned(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the representative of the span of ``y`` that is nearest to ``x``, its cosines, and the factor.

    These are ``z = y W^H``, the Hermitian ``x^H z``, whose eigenvalues are the cosines of the principal angles, and
    the unitary polar factor ``W`` of ``x^H y``. If an angle is 90 degrees, one of several nearest representatives is
    returned.
    """
    cosines = multiply(x.mH, y)
    W = polar(cosines)
    C = multiply(cosines, W.mH)
    return multiply(y, W.mH), 0.5 * (C + C.mH), W


def principal_angles(x: Tensor, y: Tensor) -> Tensor:
    r"""Return the principal angles, (..., p), in ascending order, in :math:`[0, \pi/2]`.

    Small angles are computed from their sines, and large ones from their cosines (Bjorck and Golub 1973). The arc
    cosine of a number near 1 has only half of the digits.
    """
    inside = multiply(x.mH, y)
    require_finite(inside, "The computation of principal angles")
    cosines = torch.linalg.svdvals(without_vanishing(inside)).clamp(max=1)
    if x.shape[-2] == x.shape[-1]:
        return 0 * cosines  # depends on the input, so that a loss has a gradient
    sines = torch.linalg.svdvals(without_vanishing(y - multiply(x, inside)))
    sines = torch.nn.functional.pad(sines, (0, cosines.shape[-1] - sines.shape[-1])).flip(-1).clamp(max=1)
    small = cosines.square() > 0.5
    by_sine = torch.asin(torch.where(small, sines, 0))
    return torch.where(small, by_sine, torch.acos(torch.where(small, 0, cosines)))


def subspace_log(x: Tensor, y: Tensor) -> Tensor:
    r"""Return the horizontal vector at ``x`` along the shortest geodesic to the span of ``y``.

    With ``z`` and ``C`` of `aligned` it is :math:`(z - xC)\, f(C)`, where :math:`f(\cos\theta) = \theta / \sin\theta`:

    .. math:: f(C) = \int_0^1 2\, \bigl(I + C + t^2 (I - C)\bigr)^{-1} dt

    The integral is computed by Gauss-Legendre quadrature, whose derivatives exist also if angles coincide.
    """
    require_distinct_geodesic(x, y, "The logarithm")
    z, C, _ = aligned(x, y)
    outside = horizontal(x, z)
    squares, weights = (
        torch.tensor(values, dtype=C.real.dtype, device=C.device)[:, None, None] for values in (_SQUARES, _WEIGHTS)
    )
    eye = torch.eye(C.shape[-1], dtype=C.dtype, device=C.device)
    A = (1 + squares) * eye + (1 - squares) * C.unsqueeze(-3)  # (..., nodes, p, p), eigenvalues in [1, 2]
    f = (weights * inverse_of(A)).sum(-3)
    return multiply(outside, f)


def subspace_transport(x: Tensor, y: Tensor, *vectors: Tensor) -> list[Tensor]:
    r"""Return horizontal vectors after parallel transport from ``x`` along the shortest geodesic to the span of ``y``.

    With ``z``, ``C`` and ``W`` of `aligned` it is :math:`(v - (x + z)(I + C)^{-1} z^H v)\, W`. In the plane of a
    principal angle this is the rotation by that angle. If an angle is 90 degrees, one of the shortest geodesics is
    used.
    """
    if x.shape[-2] == x.shape[-1]:
        return [horizontal(y, v) for v in vectors]
    z, C, W = aligned(x, y)
    eye = torch.eye(C.shape[-1], dtype=C.dtype, device=C.device)
    left = multiply(x + z, inverse_of(eye + C))
    return [multiply(v - multiply(left, multiply(z.mH, v)), W) for v in vectors]


def subspace_exp(x: Tensor, u: Tensor) -> Tensor:
    r"""Return :math:`x V \cos(S) V^H + U \sin(S) V^H` for the horizontal vector :math:`u = U S V^H`."""
    U, S, Vh = torch.linalg.svd(without_vanishing(u), full_matrices=False)
    U = horizontal(x, U)  # rounding errors of a long step are not horizontal
    left = multiply(x, Vh.mH) * S.cos().unsqueeze(-2).to(x.dtype) + U * S.sin().unsqueeze(-2).to(x.dtype)
    return multiply(left, Vh)


def require_distinct_geodesic(x: Tensor, y: Tensor, name: str) -> None:
    """Raise `OffManifoldError` if a principal angle is 90 degrees, where the shortest geodesic is not unique."""
    inside = x.mH @ y
    require_finite(inside, name)

    def check(inside: Tensor) -> None:
        least = float(torch.linalg.svdvals(inside).min()) if inside.numel() else 1.0
        tolerance = _GAP * inside.shape[-1] * torch.finfo(inside.dtype).eps
        if not least > tolerance:
            raise OffManifoldError(
                f"{name} needs subspaces without a principal angle of 90 degrees, where the geodesic is not unique.\n"
                f"Expected cosines above {tolerance:.1e}, got {least:.1e}.\n"
                "Choose a base point nearer to the other. Their distance is defined: use dist."
            )

    on_numbers(check, inside)
