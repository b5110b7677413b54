"""Small perturbations of a matrix that move an eigenvalue far. They come from singular vectors."""

import cmath
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import OptionError
from ..linalg.spectrum import dominant
from .real_pairs import last_vectors, real_pairs, sizes_of, smallest_values
from .sources import matrix_of

_ANGLES, _OUTERMOST = 16, 16  # search on the circle: number of angles, and of eigenvalues whose angles are added
_STARTS, _STEPS, _CONVERGED = 6, 30, 1e-9  # search for the largest spectral radius
_GOLDEN, _SECTIONS = 0.5 * (5**0.5 - 1), 20  # golden section between two angles
_LARGE = 1e100  # larger entries are scaled, so that squares do not overflow


class WorstPerturbation(NamedTuple):
    """A perturbation of a matrix, and its effect on an eigenvalue.

    Attributes
    ----------
    E : Tensor, shape (n, n)
        The perturbation.
    z : complex
        Point to which the perturbation moves an eigenvalue.
    size : float
        Norm of the perturbation.

    Examples
    --------
    >>> E, z, size = mr.diagnostics.worst_perturbation(torch.zeros(1, 1), eps=0.5)
    >>> assert abs(E.item()) == abs(z) == size == 0.5
    """

    E: Tensor
    z: complex
    size: float


def worst_perturbation(
    source: Tensor | nn.Module, z: complex | None = None, eps: float | None = None
) -> WorstPerturbation:
    r"""Return a small perturbation that moves an eigenvalue of a matrix to a chosen or to the worst point.

    With the smallest singular value of the shifted matrix and its vectors, :math:`(zI - W) v = s u`,

    .. math:: E = s\, u v^H \quad\Rightarrow\quad (W + E) v = z v, \qquad \|E\|_2 = s,

    No smaller complex perturbation gives the eigenvalue ``z``. For a real ``W`` the perturbation is real too. If ``z``
    is not real, it has rank 2, because the conjugate eigenvalue moves too. The size of the smallest real perturbation
    is the maximum over :math:`\gamma \in (0, 1]` of the second smallest singular value of

    .. math:: \begin{bmatrix} \operatorname{Re} M & -\gamma \operatorname{Im} M \\
        \gamma^{-1} \operatorname{Im} M & \operatorname{Re} M \end{bmatrix}, \qquad M = zI - W.

    Parameters
    ----------
    source : Tensor, shape (n, n), or nn.Module
        A matrix, or a module with a recurrent matrix (see `recurrent_matrix`). For a complex ``E``, convert a real
        matrix to complex.
    z : complex, optional
        Point to which an eigenvalue is moved. Default: the point of the unit circle that needs the smallest ``E``.
    eps : float, optional
        Positive norm of ``E``. Without ``z``, the result is the ``E`` of this norm that makes the spectral radius
        largest, and ``z`` is the outermost eigenvalue. With ``z``, the ``E`` above is scaled to this norm. Then the
        eigenvalue is not moved exactly to ``z``. If ``z`` is already an eigenvalue, ``E`` is 0 and is not scaled.

    Returns
    -------
    WorstPerturbation
        ``E`` of shape (n, n) in double precision on the device of the matrix, ``z``, and the norm of ``E``.

    Raises
    ------
    ShapeError, NonFiniteError, OptionError
        If the source has no square, finite matrix, ``z`` is not finite, or ``eps`` is not positive. If ``z`` is not
        real and the matrix is real of size 1, or if no real perturbation is found.

    Notes
    -----
    The eigenvalue moves to ``z`` up to rounding error times its condition number. For a real matrix, the size is that
    of the smallest real perturbation, up to the tolerance of a search over :math:`\gamma`. If this search fails, the
    size is larger. The worst ``z`` is the result of a local search from 16 angles and those of the 16 outermost
    eigenvalues. There may be a worse one in between. With ``eps``, the search repeats the steepest perturbation, which
    is the polar factor of the slope of the spectral radius. It takes some hundred decompositions of W: less than a
    second for n = 32, and about five seconds for n = 128. Sources: Trefethen and Embree (2005), chapter 2, for the
    singular vectors. Qiu, Bernhardsson, Rantzer, Davison, Young and Doyle (1995) for real perturbations. Guglielmi and
    Overton (2011) for the search.

    Examples
    --------
    >>> W = torch.tensor([[0.5, 4.0], [0.0, -0.5]], dtype=torch.float64)
    >>> E, z, size = mr.diagnostics.worst_perturbation(W)
    >>> print(f"{abs(z):.3f} {size:.3f}")
    1.000 0.175
    >>> assert (torch.linalg.eigvals(W + E) - z).abs().min() < 1e-8
    """
    W = matrix_of(source, "worst_perturbation").weight
    if z is not None and not (isinstance(z, (int, float, complex)) and cmath.isfinite(z)):
        raise OptionError(f"worst_perturbation needs a finite number z.\nGot {z!r:.80}.\nPass a finite number.")
    if eps is not None and not (isinstance(eps, (int, float)) and 0 < eps < math.inf):
        raise OptionError(
            f"The norm eps of a perturbation needs to be positive.\nGot {eps!r:.80}.\nPass for example eps=0.3."
        )
    if z is not None and complex(z).imag and W.shape[0] == 1 and not W.is_complex():
        raise OptionError(
            "A real matrix of size 1 can only have a real eigenvalue.\n"
            f"Expected a real z, got {z}.\nConvert the matrix to complex128 for a complex perturbation."
        )
    largest = max(float(W.abs().max()), 0.0 if z is None else abs(z))
    scale = 2.0 ** min(math.frexp(largest)[1], 1000) if largest > _LARGE else 1.0
    W = W / scale
    if z is None and eps is not None:
        E, reached = _outermost(W, float(eps) / scale)
    else:
        reached = _worst_on_circle(W, 1 / scale) if z is None else complex(z) / scale
        E = _moving(W, torch.tensor([reached], dtype=torch.complex128))[0]
        if not E.isfinite().all():
            raise OptionError(
                f"No real perturbation was found that moves an eigenvalue to z.\nGot z={reached * scale}.\n"
                "Use a real z, one farther from the real axis, or convert the matrix to complex128."
            )
        size = float(torch.linalg.matrix_norm(E, 2))
        E = E if eps is None or not size else E * (eps / scale / size)
    size = float(torch.linalg.matrix_norm(E, 2)) * scale
    return WorstPerturbation(E * scale, reached * scale if z is None else complex(z), size)


def _moving(W: Tensor, z: Tensor) -> Tensor:
    """Return the perturbation of ``W`` for each point ``z``, (k, n, n). NaN if no real one is found."""
    z = z.to(W.device, torch.complex128)
    if W.is_complex():
        return _by_vectors(W, z, last_vectors(W, z))
    E = torch.full((len(z), *W.shape), math.nan, dtype=W.dtype, device=W.device)
    on_axis = z.imag == 0
    if on_axis.any():
        real = z[on_axis].real
        E[on_axis] = _by_vectors(W, real, last_vectors(W, real))
    if not on_axis.all() and len(W) > 1:
        E[~on_axis] = real_pairs(W, z[~on_axis])
    return E


def _by_vectors(W: Tensor, z: Tensor, v: Tensor) -> Tensor:
    residual = z[:, None] * v - (W @ v.mT).mT
    return residual[:, :, None] * v[:, None, :].conj()


def _angles(W: Tensor) -> Tensor:
    """Angles to try: equally spaced ones, and those of the outermost eigenvalues. A real ``W`` needs half."""
    values = torch.linalg.eigvals(W).cpu()
    values = values[values.abs().argsort(descending=True)][:_OUTERMOST]
    if W.is_complex():
        return torch.cat(
            [torch.arange(_ANGLES, dtype=torch.float64) * (2 * math.pi / _ANGLES), values.angle()]
        ).unique()
    if len(W) == 1:
        return torch.tensor([0.0, math.pi], dtype=torch.float64)
    around = torch.linspace(0, math.pi, _ANGLES + 1, dtype=torch.float64)
    return torch.cat([around, values.angle().abs()]).unique()


def _at(radius: float, angle: float) -> complex:
    """The point of a circle. It is exactly real for the angles 0 and pi."""
    if angle in (0.0, math.pi):
        return complex(radius if angle == 0 else -radius)
    return cmath.rect(radius, angle)


class _Circle:
    """Sizes of the perturbations for the points of a circle around 0, computed only when needed.

    The smallest singular value of the shifted matrix is a lower bound of the size, and much faster to compute.
    """

    def __init__(self, W: Tensor, radius: float) -> None:
        self.W, self.radius = W, radius
        self._bounds: dict[float, float] = {}
        self._sizes: dict[float, float] = {}

    def bound(self, *angles: float) -> None:
        """Compute the lower bounds at some angles."""
        z = torch.tensor([_at(self.radius, angle) for angle in angles], dtype=torch.complex128)
        self._bounds |= zip(angles, smallest_values(self.W, z.to(self.W.device)).tolist(), strict=True)

    def size(self, angle: float) -> float:
        if angle not in self._sizes:
            z = torch.tensor([_at(self.radius, angle)], dtype=torch.complex128)
            self._sizes[angle] = float(sizes_of(_moving(self.W, z))[0])
        return self._sizes[angle]

    def is_smaller(self, a: float, b: float) -> bool:
        """Whether the size at ``a`` is smaller than the size at ``b``."""
        first, second = sorted((a, b), key=lambda angle: (angle not in self._sizes, self._bounds[angle]))
        if second not in self._sizes and self._bounds[second] >= self.size(first):
            return first == a
        return self.size(a) < self.size(b)

    def may_be_smaller(self, than: float, distance: float, *angles: float) -> bool:
        """Whether a size within a distance of one of these angles may be below ``than``, by the lower bounds.

        The smallest singular value changes by at most the distance that the point moves.
        """
        return min(self._bounds[angle] for angle in angles) - self.radius * distance < than

    def smallest(self) -> float:
        """The angle of the smallest size. Sizes that were not computed are larger."""
        found = min(self._bounds, key=self._bounds.__getitem__)
        for angle in sorted(self._bounds, key=self._bounds.__getitem__):
            if self._bounds[angle] >= self.size(found):
                break
            found = angle if self.size(angle) < self.size(found) else found
        return found


def _worst_on_circle(W: Tensor, radius: float) -> complex:
    """The point of a circle around 0 with the smallest perturbation."""
    circle, angles = _Circle(W, radius), _angles(W)
    circle.bound(*angles.tolist())
    best = circle.smallest()
    if math.isfinite(circle.size(best)) and len(angles) >= 3:
        _refine(circle, best, angles)
    return _at(radius, circle.smallest())


def _outermost(W: Tensor, eps: float) -> tuple[Tensor, complex]:
    """The perturbation of norm ``eps`` with the largest spectral radius, and the eigenvalue.

    It repeats the steepest perturbation at the matrix that the last one produced. It starts from the directions in
    which points just outside of the eigenvalues are nearest.
    """
    best, farthest, eye = torch.zeros_like(W), -1.0, torch.eye(len(W), dtype=W.dtype, device=W.device)
    radius = float(torch.linalg.eigvals(W).abs().max()) + eps
    angles = [float(angle) for angle in _angles(W)]
    near = {angle: float(torch.linalg.svdvals(_at(radius, angle) * eye - W)[-1]) for angle in angles}
    for angle in sorted(near, key=lambda angle: near[angle])[:_STARTS]:
        U, _, Vh = torch.linalg.svd(_at(radius, angle) * eye - W)
        slope, reached = U[:, -1:] @ Vh[-1:], -1.0
        for _ in range(_STEPS):
            E = eps * _steepest(slope if W.is_complex() else slope.real)
            eigenvalue, projector = dominant(W + E)
            slope, before, reached = _phase(eigenvalue) * projector.mH, reached, float(eigenvalue.abs())
            if reached > farthest:
                best, farthest = E, reached
            if abs(reached - before) <= _CONVERGED * reached:
                break
    values = torch.linalg.eigvals(W + best)
    return best, complex(values[values.abs().argmax()])


def _phase(value: Tensor) -> Tensor:
    return value.sgn() if value.abs() > 0 else torch.ones_like(value)


def _steepest(slope: Tensor) -> Tensor:
    """The matrix of norm 1 along which a function with this slope grows fastest: the polar factor of the slope."""
    U, s, Vh = torch.linalg.svd(slope)
    rank = int((s > 1e-8 * s[0]).sum())
    return U[:, :rank] @ Vh[:rank]


def _refine(circle: _Circle, best: float, angles: Tensor) -> None:
    """Search between the neighbours of the best angle by golden section."""
    k = int((angles - best).abs().argmin())
    below, above = float(angles[max(k - 1, 0)]), float(angles[min(k + 1, len(angles) - 1)])
    left, right = above - _GOLDEN * (above - below), below + _GOLDEN * (above - below)
    circle.bound(left, right)
    for _ in range(_SECTIONS):
        if not circle.may_be_smaller(circle.size(best), left - below, left, right):
            return
        if circle.is_smaller(left, right):
            above, right = right, left
            left = above - _GOLDEN * (above - below)
            circle.bound(left)
        else:
            below, left = left, right
            right = below + _GOLDEN * (above - below)
            circle.bound(right)
