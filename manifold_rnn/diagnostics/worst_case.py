"""Small perturbations of a matrix that move an eigenvalue far, from singular vectors of the shifted matrix."""

import cmath
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import OptionError
from ..linalg.spectrum import dominant
from .sources import matrix_of

_ANGLES, _OUTERMOST = 16, 16  # of the search on the circle: angles, and eigenvalues whose angles are tried too
_STARTS, _STEPS, _CONVERGED = 6, 30, 1e-9  # of the search for the largest spectral radius
_NUMBERS = 2**22  # in a chunk of shifted matrices
_GOLDEN, _SECTIONS = 0.5 * (5**0.5 - 1), 20  # of the search between two angles
_TIE = 1e-7  # relative to the matrix: by how much equal singular values are told apart


class WorstPerturbation(NamedTuple):
    """A perturbation of a matrix, the point to which it moves an eigenvalue, and its norm.

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

    and no smaller complex perturbation has the eigenvalue ``z``. For a real ``W`` the perturbation is real as well:
    :math:`E = s\, [\operatorname{Re} u, \operatorname{Im} u]\,[\operatorname{Re} v, \operatorname{Im} v]^{+}`, of rank
    2 where ``z`` is not real. It moves the conjugate eigenvalue along and may be longer than ``s``.

    Parameters
    ----------
    source : Tensor, shape (n, n), or nn.Module
        A matrix, or a module of which `recurrent_matrix` is one. Convert a real matrix to complex for a complex ``E``.
    z : complex, optional
        Where to move an eigenvalue. Default: the point of the unit circle that needs the smallest ``E``.
    eps : float, optional
        Norm of ``E``, positive. Without ``z``, the ``E`` of this norm that makes the spectral radius largest is
        returned, with the outermost eigenvalue as ``z``. With ``z``, the ``E`` above is scaled to this norm, and the
        eigenvalue arrives elsewhere unless the norm was ``eps`` already.

    Returns
    -------
    WorstPerturbation
        ``E``, shape (n, n), in double precision on the device of the matrix; ``z``; and the norm of ``E``.

    Raises
    ------
    ShapeError, NonFiniteError, OptionError
        If the source has no square, finite matrix, ``z`` is not finite, ``eps`` is not positive, or a real matrix of
        size 1 should get an eigenvalue that is not real.

    Notes
    -----
    The eigenvalue arrives at ``z`` up to rounding error, times its condition number. Which ``z`` is the worst is the
    result of a local search from 16 angles and those of the 16 outermost eigenvalues: there may be a worse one in
    between. With ``eps``, the search repeats the steepest perturbation, the polar factor of the slope of the spectral
    radius. It takes some hundred decompositions of W: under a second for n = 32, and seconds for n = 128. Sources:
    Trefethen and Embree (2005), chapter 2, for the singular vectors, Guglielmi and Overton (2011) for the search.

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
        raise OptionError(f"worst_perturbation moves an eigenvalue to a number z.\nGot {z!r}.\nPass a finite number.")
    if eps is not None and not (isinstance(eps, (int, float)) and 0 < eps < math.inf):
        raise OptionError(f"The norm eps of a perturbation is a positive number.\nGot {eps!r}.\nUse e.g. eps=0.3.")
    if z is not None and complex(z).imag and W.shape[0] == 1 and not W.is_complex():
        raise OptionError(
            "A real matrix of size 1 has a real eigenvalue only.\n"
            f"Expected a real z, got {z}.\nConvert the matrix to complex128 for a complex perturbation."
        )
    if z is None and eps is not None:
        E, z = _outermost(W, float(eps))
    else:
        z = _worst_on_circle(W) if z is None else complex(z)
        E = _moving(W, torch.tensor([z], dtype=torch.complex128))[0]
        size = float(torch.linalg.matrix_norm(E, 2))
        E = E if eps is None or not size else E * (eps / size)
    return WorstPerturbation(E, z, float(torch.linalg.matrix_norm(E, 2)))


def _moving(W: Tensor, z: Tensor) -> Tensor:
    """Return the perturbation of ``W`` for each of some points ``z``, (k, n, n); NaN where a real one is not found."""
    z = z.to(W.device, torch.complex128)
    if W.is_complex():
        return _by_vectors(W, z, _last_vectors(W, z))
    E = torch.full((len(z), *W.shape), math.nan, dtype=W.dtype, device=W.device)
    on_axis = z.imag == 0
    if on_axis.any():
        real = z[on_axis].real
        E[on_axis] = _by_vectors(W, real, _last_vectors(W, real))
    if not on_axis.all() and len(W) > 1:
        E[~on_axis] = _real_pairs(W, z[~on_axis])
    return E


def _last_vectors(W: Tensor, z: Tensor) -> Tensor:
    """Right singular vectors of the smallest singular values of ``zI - W``, (k, n)."""
    eye = torch.eye(len(W), dtype=W.dtype, device=W.device)
    size = max(1, _NUMBERS // W.numel())
    return torch.cat([torch.linalg.svd(part[:, None, None] * eye - W).Vh[:, -1].conj() for part in z.split(size)])


def _by_vectors(W: Tensor, z: Tensor, v: Tensor) -> Tensor:
    residual = z[:, None] * v - (W @ v.mT).mT
    return residual[:, :, None] * v[:, None, :].conj()


def _real_pairs(W: Tensor, z: Tensor) -> Tensor:
    """Real perturbations of rank 2. Any vector gives one; of two vectors the one that gives the shorter is taken.

    Where singular values tie, as for a multiple of the identity, the first vector may be real, which no real
    perturbation turns into an eigenvector for ``z``. A skew part that separates the values leads to the second.
    """
    n = len(W)
    draw = torch.randn(n, n, dtype=W.dtype, generator=torch.Generator().manual_seed(0)).to(W.device)
    skew = (draw - draw.mT) * (_TIE * (float(torch.linalg.matrix_norm(W)) + float(z.abs().max())) / n)
    best = None
    for shifted in (W.to(z.dtype), (W + skew).to(z.dtype)):
        v = _last_vectors(shifted, z)
        residual = z[:, None] * v - (W.to(z.dtype) @ v.mT).mT
        pair, image = torch.stack([v.real, v.imag], -1), torch.stack([residual.real, residual.imag], -1)
        E = image @ torch.linalg.pinv(pair, rtol=1e-10)
        missed = torch.linalg.matrix_norm(E @ pair - image) > 1e-8 * torch.linalg.matrix_norm(image)
        E[missed] = math.nan
        if best is None:
            best = E
        else:
            sizes, others = _sizes(best), _sizes(E)
            best = torch.where((others < sizes)[:, None, None], E, best)
    assert best is not None
    return best


def _sizes(E: Tensor) -> Tensor:
    """Norms of perturbations, infinite where there is none."""
    return torch.where(E.isfinite().all(-1).all(-1), torch.linalg.matrix_norm(E.nan_to_num(), 2), math.inf)


def _size_at(W: Tensor, z: complex) -> float:
    return float(_sizes(_moving(W, torch.tensor([z], dtype=torch.complex128)))[0])


def _angles(W: Tensor) -> Tensor:
    """Angles to try: some of the circle, and those of the outermost eigenvalues; upper half only for a real ``W``."""
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
    """The point of a circle, exactly real where the angle says so."""
    if angle in (0.0, math.pi):
        return complex(radius if angle == 0 else -radius)
    return cmath.rect(radius, angle)


def _worst_on_circle(W: Tensor) -> complex:
    """The point of the unit circle that the smallest perturbation reaches."""
    angles = _angles(W)
    sizes = _sizes(_moving(W, torch.tensor([_at(1.0, float(a)) for a in angles], dtype=torch.complex128)))
    best = float(angles[int(sizes.argmin())])
    return _at(1.0, _refined(lambda a: _size_at(W, _at(1.0, a)), best, angles, float(sizes.min())))


def _outermost(W: Tensor, eps: float) -> tuple[Tensor, complex]:
    """The perturbation of norm ``eps`` that makes the spectral radius largest, and the eigenvalue that it makes.

    The steepest perturbation, again and again at the matrix that the last one gave; from the directions in which the
    points just outside of the eigenvalues are nearest.
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
    """The matrix of norm 1 along which a function with this slope grows fastest: the polar factor, of its rank."""
    U, s, Vh = torch.linalg.svd(slope)
    rank = int((s > 1e-8 * s[0]).sum())
    return U[:, :rank] @ Vh[:rank]


def _refined(f: Callable[[float], float], best: float, angles: Tensor, value: float) -> float:
    """The angle of a smaller value between the neighbors of the best one, by golden section, or that one."""
    if not math.isfinite(value) or len(angles) < 3:
        return best
    k = int((angles - best).abs().argmin())
    below, above = float(angles[max(k - 1, 0)]), float(angles[min(k + 1, len(angles) - 1)])
    left, right = above - _GOLDEN * (above - below), below + _GOLDEN * (above - below)
    values = {left: f(left), right: f(right)}
    for _ in range(_SECTIONS):
        if values[left] < values[right]:
            above, right = right, left
            left = above - _GOLDEN * (above - below)
            values[left] = f(left)
        else:
            below, left = left, right
            right = below + _GOLDEN * (above - below)
            values[right] = f(right)
    found = min(values, key=lambda angle: values[angle])
    return found if values[found] < value else best
