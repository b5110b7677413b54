r"""Initial skew-symmetric matrices ``A``, for ``exp(A)`` or a Cayley transform.

All except `haar_` are block diagonal with the blocks :math:`\begin{pmatrix} 0 & s_j \\ -s_j & 0 \end{pmatrix}`, and a
last zero if ``n`` is odd. So ``exp(A)`` has the eigenvalues :math:`e^{\pm i s_j}`, and 1 if ``n`` is odd.
"""

import math

import torch
from torch import Tensor

from ...linalg import logm_unitary, qr
from ...linalg.lu import slogdet
from .checks import at_least_single, require_angle, require_fill

__all__ = ["cayley_", "haar_", "haar_diagonal_", "henaff_", "normal_diagonal_"]


def cayley_(A: Tensor, max_angle: float = math.pi / 2, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Fill ``A`` so that :math:`(I + A)^{-1}(I - A)` has uniformly drawn eigenvalues :math:`e^{\pm i t_j}`.

    .. math:: s_j = \sqrt{\frac{1 - \cos t_j}{1 + \cos t_j}} = \tan(t_j / 2), \qquad t_j \sim U[0, t_{\max}].

    Parameters
    ----------
    A : Tensor, shape (..., n, n)
        Matrix that is overwritten in place. If it is complex, its imaginary part becomes 0.
    max_angle : float
        Largest angle, below pi. The default fills the right half of the circle.
    generator : torch.Generator, optional
        Source of the random numbers.

    Returns
    -------
    Tensor
        ``A``.

    Raises
    ------
    ShapeError, DtypeError, OptionError
        If the tensor holds no square matrices, or a number is out of range. Nothing was written then.

    Notes
    -----
    Used as an exponent, the same numbers give the angles :math:`\tan(t_j/2) \in [0, 1]`, not :math:`t_j`. The released
    code of expRNN does this. In the scale of this package, the same matrix is ``linalg.cayley(-2 * A)``. Source:
    Helfrich, Willmott and Ye (2018).

    Examples
    --------
    >>> A = mr.nn.init.cayley_(torch.empty(5, 5))
    >>> assert torch.equal(A, -A.mT) and A.abs().max() <= 1
    """
    require_fill(A, "cayley_", max_angle=max_angle)
    require_angle(max_angle, "max_angle", "cayley_", below=math.pi)
    t = _angles(A).uniform_(0, max_angle, generator=generator)
    return _fill_blocks(A, torch.tan(t / 2))


def henaff_(A: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Fill ``A`` with angles :math:`s_j \sim U(-\pi, \pi)`, so that ``exp(A)`` has eigenvalues on the whole circle.

    Parameters
    ----------
    A : Tensor, shape (..., n, n)
        Matrix that is overwritten in place.
    generator : torch.Generator, optional
        Source of random numbers. Default: torch's global generator.

    Returns
    -------
    Tensor
        ``A``.

    Raises
    ------
    ShapeError, DtypeError, OptionError
        If the tensor holds no square matrices, or a number is out of range. Nothing was written then.

    Notes
    -----
    Source: Henaff, Szlam and LeCun (2016).

    Examples
    --------
    >>> A = mr.nn.init.henaff_(torch.empty(4, 4))
    >>> assert torch.equal(A, -A.mT) and A.abs().max() <= torch.pi
    """
    require_fill(A, "henaff_")
    return _fill_blocks(A, _angles(A).uniform_(-math.pi, math.pi, generator=generator))


def haar_(A: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Fill ``A`` with the logarithm of a Haar random rotation on SO(n), or on U(n) if ``A`` is complex.

    Parameters
    ----------
    A : Tensor, shape (..., n, n)
        Matrix that is overwritten in place.
    generator : torch.Generator, optional
        Source of random numbers. Default: torch's global generator.

    Returns
    -------
    Tensor
        ``A``, which is skew-Hermitian. Its eigenvalues have modulus at most pi.

    Raises
    ------
    ShapeError, DtypeError, OptionError
        If the tensor holds no square matrices, or a number is out of range. Nothing was written then.

    Examples
    --------
    >>> A = mr.nn.init.haar_(torch.empty(4, 4))
    >>> assert torch.isclose(mr.linalg.expm_skew(A).det(), torch.tensor(1.0))
    """
    require_fill(A, "haar_")
    with torch.no_grad():
        return A.copy_(logm_unitary(_random_rotation(at_least_single(A), generator)))


def haar_diagonal_(A: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Fill ``A`` with blocks that have the angles of a uniformly random rotation, which repel each other.

    Parameters
    ----------
    A : Tensor, shape (..., n, n)
        Matrix that is overwritten in place.
    generator : torch.Generator, optional
        Source of random numbers. Default: torch's global generator.

    Returns
    -------
    Tensor
        ``A``.

    Raises
    ------
    ShapeError, DtypeError, OptionError
        If the tensor holds no square matrices, or a number is out of range. Nothing was written then.

    Examples
    --------
    >>> A = mr.nn.init.haar_diagonal_(torch.empty(5, 5))
    >>> assert torch.equal(A, -A.mT) and A.abs().max() <= torch.pi
    """
    require_fill(A, "haar_diagonal_")
    Q = _random_rotation(at_least_single(A).real, generator)
    moduli = torch.linalg.eigvals(Q).angle().abs().sort(-1, descending=True).values
    return _fill_blocks(A, moduli[..., : 2 * (A.shape[-1] // 2) : 2])  # a conjugate pair shares its modulus


def normal_diagonal_(A: Tensor, bound: float = math.pi, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Fill ``A`` with normal angles, reduced modulo ``bound``.

    .. math:: s_j = g_j \bmod \mathrm{bound}, \qquad g_j \sim N(0, 1).

    Parameters
    ----------
    A : Tensor, shape (..., n, n)
        Matrix that is overwritten in place.
    bound : float
        Upper bound of the angles, which lie in [0, bound). ``math.pi / 8`` gives the squeezed variant.
    generator : torch.Generator, optional
        Source of random numbers. Default: torch's global generator.

    Returns
    -------
    Tensor
        ``A``.

    Raises
    ------
    ShapeError, DtypeError, OptionError
        If the tensor holds no square matrices, or a number is out of range. Nothing was written then.

    Examples
    --------
    >>> A = mr.nn.init.normal_diagonal_(torch.empty(6, 6), bound=torch.pi / 8)
    >>> assert torch.equal(A, -A.mT) and A.abs().max() <= torch.pi / 8
    """
    require_fill(A, "normal_diagonal_", bound=bound)
    require_angle(bound, "bound", "normal_diagonal_")
    return _fill_blocks(A, _angles(A).normal_(generator=generator).remainder(bound))


def _angles(A: Tensor) -> Tensor:
    real = at_least_single(A).dtype.to_real()
    return A.new_empty((*A.shape[:-2], A.shape[-1] // 2), dtype=real)


def _fill_blocks(A: Tensor, s: Tensor) -> Tensor:
    i = torch.arange(0, 2 * s.shape[-1], 2, device=A.device)
    with torch.no_grad():
        A.zero_()
        A[..., i, i + 1] = s.to(A.dtype)
        A[..., i + 1, i] = -s.to(A.dtype)
    return A


def _random_rotation(A: Tensor, generator: torch.Generator | None) -> Tensor:
    Q, _ = qr(A.new_empty(A.shape).normal_(generator=generator))
    if not Q.is_complex():
        Q[..., 0, :] *= slogdet(Q)[0].unsqueeze(-1)
    return Q
