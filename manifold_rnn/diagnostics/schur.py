"""The sensitivity of eigenvalues from the Schur form: condition numbers, and the resolvent on circles."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import scipy.linalg
import torch
from torch import Tensor

from ..errors import NonFiniteError
from ..linalg.norms import normalized
from ..linalg.resolvent import inverse_pivots, smallest_singular_values, solve_shifted

_ANGLES = 64  # equally spaced angles on the circle, in addition to those of eigenvalues
_NEAREST = 32  # number of eigenvalues whose angles are added
_STARTS = 3  # number of minima on a circle that are refined
_TOL = 1e-9


@dataclass(frozen=True, eq=False)
class SchurForm:
    """The triangular factor of a matrix, and its spectral radius.

    Parameters
    ----------
    T : Tensor, shape (n, n)
        Upper triangular, complex128.
    radius : float
        Spectral radius of the matrix. It is more accurate than the eigenvalues on the diagonal.
    real : bool
        Whether the matrix is real. Then its spectrum is symmetric about the real axis.
    """

    T: Tensor
    radius: float
    real: bool

    @classmethod
    def of(cls, W: Tensor, radius: float) -> "SchurForm":
        """Compute the complex Schur form with LAPACK, on the CPU."""
        scaled, unit = normalized(W)
        if not math.isfinite(float(torch.linalg.matrix_norm(scaled) * unit)):
            raise NonFiniteError(
                "The norm of the matrix exceeds the largest number.\n"
                f"Got entries up to {float(W.abs().max()):.3g}.\nDivide the matrix by its largest entry first."
            )
        T, _ = scipy.linalg.schur(scaled.cpu().numpy(), output="complex")
        return cls(torch.from_numpy(T).to(W.device).triu() * unit, radius, not W.is_complex())

    @cached_property
    def norm(self) -> float:
        """Largest singular value."""
        scaled, unit = normalized(self.T)
        return float(torch.linalg.matrix_norm(scaled, 2) * unit)

    @cached_property
    def conditions(self) -> Tensor:
        r"""Condition numbers of the eigenvalues, :math:`\|x\| \|y\| / |y^H x|`, infinite above ``1 / (n eps)``.

        The entry of each eigenvector of ``T`` at its eigenvalue is 1. Right eigenvectors have zeros below this entry,
        and left ones above it. So :math:`y^H x` is 1.
        """
        T, _ = normalized(self.T)
        n, eps = len(T), torch.finfo(T.dtype).eps
        floor = eps * torch.linalg.matrix_norm(T)
        above = torch.where(T.triu(1).abs() > math.sqrt(n) * floor, T.triu(1), 0)  # smaller entries are rounding errors
        upper = above + T.diagonal().diag()
        values = T.diagonal()
        right = solve_shifted(upper, inverse_pivots(upper, values, floor), above.clone())
        lower = upper.mH.flip(0, 1).contiguous()
        shifts = values.conj().resolve_conj().flip(0)
        left = solve_shifted(lower, inverse_pivots(lower, shifts, floor), lower.triu(1)).flip(0, 1)
        squares = [1 + torch.view_as_real(x).square().sum((0, 2)) for x in (right, left)]
        kappa = squares[0].sqrt() * squares[1].sqrt()
        return torch.where(kappa * n * eps < 1, kappa, torch.inf)

    def resolvent(self, z: Tensor, tol: float = _TOL, *, direct: bool = False) -> Tensor:
        """Smallest singular values of ``zI - W``, see `smallest_singular_values`."""
        return smallest_singular_values(self.T, z, tol=tol, direct=direct)

    def angles(self, radius: float) -> Tensor:
        """Angles for the search on a circle: equally spaced ones, and those of eigenvalues near it."""
        end = math.pi if self.real else 2 * math.pi * (1 - 1 / _ANGLES)
        count = _ANGLES // 2 + 1 if self.real else _ANGLES
        equal = torch.linspace(0, end, count, dtype=torch.float64, device=self.T.device)
        values = self.T.diagonal()
        closeness = (values.abs() - radius).abs() / self.conditions
        nearest = values[closeness.argsort()[:_NEAREST]].angle()
        return torch.cat([equal, nearest.abs() if self.real else nearest])

    def circle_minimum(self, radius: float) -> float:
        """Return the minimum of the smallest singular value of ``zI - W`` on a circle around 0."""
        angles = self.angles(radius)
        values = self.resolvent(torch.polar(torch.full_like(angles, radius), angles), 1e-4)
        centres = angles[values.argsort()[:_STARTS]]
        window = 2 * math.pi / _ANGLES
        for _ in range(16):
            z, values = self._around(radius, centres, window)
            least, places = values.min(1)
            centres = z.gather(1, places[:, None]).squeeze(1).angle()
            best = int(least.argmin())
            inner = values[best].sort().values[:3]
            window /= 4
            if float(inner[2] - inner[0]) <= _TOL * float(inner[0]):
                break
        z = torch.polar(torch.full_like(centres[:1], radius), centres[best : best + 1])
        value = float(self.resolvent(z, direct=True))
        scaled, unit = normalized(self.T)
        floor = torch.finfo(scaled.dtype).eps * float(torch.linalg.matrix_norm(scaled) * unit)
        return value if value > 1.01 * floor else 0.0

    def pseudospectral_radii(self, eps: Sequence[float]) -> tuple[float, ...]:
        r"""Largest modulus in each pseudospectrum, :math:`\rho_\epsilon = \max\{|z| : s_{\min}(zI - W) \le \epsilon\}`.

        Every circle between the spectral radius and this radius meets the pseudospectrum, and no larger circle does. So
        the radius is found by bisection, and its angle is refined together with it.
        """
        level = torch.tensor(list(eps), dtype=torch.float64, device=self.T.device)
        low, high = self.radius + level, (self.norm + level).clamp(max=torch.finfo(level.dtype).max)
        angle, radius = self._bracket(level, low, high)
        for _ in range(4):
            radius = self._refine(level, radius, angle, high)
            outside = radius * (1 + 1e-7)
            angles = torch.stack([self.angles(float(r)) for r in outside])
            values = self.resolvent(torch.polar(outside[:, None].expand_as(angles), angles), 1e-6)
            least, places = values.min(1)
            angle = angles.gather(1, places[:, None]).squeeze(1)
            if bool((least >= level * (1 - 1e-5)).all()):
                break
        return tuple(torch.maximum(radius, low).minimum(high).tolist())

    def _bracket(self, level: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return the angle and the radius of an almost outermost point of each pseudospectrum."""
        low, high = low.clone(), high.clone()
        angle = self.T.diagonal()[self.T.diagonal().abs().argmax()].angle().expand(len(level)).clone()
        while bool((high / low > 1.001).any()):
            middle = low.sqrt() * high.sqrt()  # the radius may be many orders of magnitude below the norm
            angles = torch.stack([self.angles(float(r)) for r in middle])
            values = self.resolvent(torch.polar(middle[:, None].expand_as(angles), angles), 1e-2)
            least, places = values.min(1)
            inside = least <= level
            angle = torch.where(inside, angles.gather(1, places[:, None]).squeeze(1), angle)
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        return angle, low

    def _refine(self, level: Tensor, radius: Tensor, angle: Tensor, high: Tensor) -> Tensor:
        """Refine the radius by secant steps in logarithms, while the window of angles shrinks."""
        window, before, size_before = 2 * math.pi / _ANGLES, radius, torch.full_like(radius, torch.nan)
        for _ in range(40):
            z, values = self._around(radius, angle, window)
            least, places = values.min(1)
            angle = z.gather(1, places[:, None]).squeeze(1).angle()
            size = (least / level).log()
            slope = (size - size_before) / (radius / before).log()
            slope = torch.where(slope.isfinite() & (slope > 0), slope, radius / least)
            before, size_before = radius, size
            # the slope of the singular value is at most 1, so stepping inwards by its excess is safe
            factor = (-size / slope).clamp(-0.1, 0.1).exp()
            radius = torch.minimum(radius * factor, high)
            window /= 2
            near = values.sort(1).values  # the minimum lies between the neighbours of the best angle
            flat = near[:, 2] - near[:, 0] <= _TOL * near[:, 0]
            exact = ((radius / before - 1).abs() <= 1e-11) & ((size.abs() <= _TOL) | (radius == before))
            if bool((flat & exact).all()):
                break
        return radius

    def _around(self, radius: float | Tensor, centres: Tensor, window: float) -> tuple[Tensor, Tensor]:
        """Points of a circle around each centre, and the smallest singular values there."""
        offsets = torch.linspace(-window, window, 9, dtype=torch.float64, device=centres.device)
        angles = centres[:, None] + offsets
        radii = torch.as_tensor(radius, dtype=torch.float64, device=centres.device).reshape(-1, 1)
        z = torch.polar(radii.expand_as(angles).contiguous(), angles)
        return z, self.resolvent(z)
