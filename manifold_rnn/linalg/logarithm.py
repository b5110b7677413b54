"""Inverses of the maps from skew-Hermitian to unitary matrices. Each raises outside its domain."""

import torch
from torch import Tensor

from ..errors import OffManifoldError
from .checks import on_numbers, require_finite, require_matrix
from .defect import defect
from .lu import inverse as inverse_of
from .lu import solve
from .polar import polar
from .precision import full_precision
from .skew import skew

_FAR = 0.5  # norm of Q^H Q - I
_SIGN_STEPS = 12  # converges for real parts above about 1e-3, quadratically at the end
_ROOTS = 4  # square roots, after which eigenangles are at most pi/16
_TERMS = 9  # of the artanh series at tan(pi/32); the next term is below the rounding unit of double precision


@full_precision
def logm_unitary(Q: Tensor) -> Tensor:
    r"""Principal logarithm of an orthogonal or unitary matrix without the eigenvalue -1.

    .. math:: \log Q = 2^k \cdot 2\operatorname{artanh}\bigl((R - I)(R + I)^{-1}\bigr), \qquad R = Q^{1/2^k}.

    Here the square root of a unitary matrix is the polar factor of :math:`I + Q`.

    Parameters
    ----------
    Q : Tensor, shape (..., n, n)
        An orthogonal (real) or unitary (complex) matrix.

    Returns
    -------
    Tensor, shape (..., n, n)
        A skew-Hermitian matrix with eigenvalues in :math:`(-i\pi, i\pi)`.

    Raises
    ------
    OffManifoldError
        If an eigenvalue is -1 to working precision, where the logarithm is not unique, or if ``Q`` is far from
        orthogonal or unitary.
    ShapeError, DtypeError
        If ``Q`` is not a batch of square floating point matrices.

    Notes
    -----
    The error is inversely proportional to the distance of the nearest eigenvalue from -1. Source: Higham (2008),
    chapters 8 and 11, for inverse scaling and squaring and for the square root.

    Examples
    --------
    >>> A = mr.linalg.skew(torch.randn(4, 4, dtype=torch.float64))
    >>> assert torch.allclose(mr.linalg.logm_unitary(mr.linalg.expm_skew(A / 4)), A / 4)
    """
    require_unitary(Q, "logm_unitary")
    require_no_minus_one(Q, "logm_unitary")
    eye = _eye(Q)
    for _ in range(_ROOTS):
        Q = polar(eye + Q)
    Y = inverse_cayley_unchecked(Q) * 0.5
    power, total, square = Y, Y, Y @ Y
    for k in range(1, _TERMS):
        power = power @ square
        total = total + power / (2 * k + 1)
    return skew(total) * 2.0 ** (_ROOTS + 1)


def inverse_cayley_unchecked(Q: Tensor) -> Tensor:
    """Return ``2 (Q + I)^-1 (Q - I)``, which is skew-Hermitian, without checking the eigenvalue -1."""
    eye = _eye(Q)
    return 2 * skew(solve(Q + eye, Q - eye))


def inverse_polar(Q: Tensor) -> Tensor:
    """Return ``A`` with ``polar(I + A) = Q``: ``(Q - Q^H)(Q + Q^H)^-1``. Eigenvalues need positive real parts."""
    H = Q + Q.mH
    require_finite(Q, "The inverse polar retraction")

    def check(H: Tensor) -> None:
        w = torch.linalg.eigvalsh(H)
        if bool((w <= _tolerance(H)).any()):
            raise OffManifoldError(
                "The inverse polar retraction needs a matrix whose eigenvalues have positive real parts.\n"
                f"Got one with real part {float(w.min()) / 2:.3g}.\n"
                "Use the exponential or Cayley retraction, or a base point nearer to the matrix."
            )

    on_numbers(check, H)
    return skew(solve(H, Q - Q.mH))


def inverse_polar_factor(M: Tensor) -> Tensor:
    """Return the Hermitian ``S`` with ``M S + S M^H = 2I``, by the matrix sign iteration of ``M`` (Roberts 1980)."""
    require_finite(M, "The inverse polar retraction")
    Y, S = M, 2 * _eye(M).expand_as(M)
    for _ in range(_SIGN_STEPS):
        inverse = inverse_of(Y)
        S = 0.5 * (S + inverse @ S @ inverse.mH)
        Y = 0.5 * (Y + inverse)

    def check(Y: Tensor) -> None:
        if not bool((torch.linalg.matrix_norm(Y - _eye(Y)) < _tolerance(Y)).all()):  # NaN included
            raise OffManifoldError(
                "The inverse polar retraction needs y such that the eigenvalues of x^H y have positive real parts.\n"
                f"Got one with real part {float(torch.linalg.eigvals(M).real.min()):.3g}.\n"
                "Use the Cayley retraction, or a base point nearer to y."
            )

    on_numbers(check, Y)
    return 0.5 * S


def inverse_qr(Q: Tensor) -> Tensor:
    """Return ``A`` with ``qr(I + A).Q = Q``, from ``QR + (QR)^H = 2I``, which is solved for ``R`` by columns."""
    require_finite(Q, "The inverse QR retraction")
    n = Q.shape[-1]
    columns: list[Tensor] = []  # columns of QR
    diagonal: list[Tensor] = []  # diagonal of R
    for j in range(n):
        head = [-c[..., j : j + 1].conj() for c in columns]
        block = Q[..., : j + 1, : j + 1]
        one = torch.ones_like(Q[..., :1, 0])
        both = solve(
            block, torch.stack([torch.cat([*head, 0 * one], -1), torch.cat([*(0 * h for h in head), one], -1)], -1)
        )
        start, slope = both[..., -1, 0], both[..., -1, 1]
        # the last entry of column j of QR is 1 + it, with t such that R_jj is real and positive
        t = torch.zeros_like(start.real) if not Q.is_complex() else -(start + slope).imag / slope.real
        last = torch.ones_like(start) if not Q.is_complex() else torch.complex(torch.ones_like(t), t)
        r = both[..., 0] + both[..., 1] * last.unsqueeze(-1)
        diagonal.append(r[..., -1].real)
        columns.append((Q[..., : j + 1] @ r.unsqueeze(-1)).squeeze(-1))
    on_numbers(_require_positive, torch.stack(diagonal, -1))
    return skew(torch.stack(columns, -1))


def _require_positive(diagonal: Tensor) -> None:
    bad = ~(diagonal > _tolerance(diagonal))  # NaN included
    if bool(bad.any()):
        first = int(bad.reshape(-1, bad.shape[-1]).any(0).long().argmax())
        raise OffManifoldError(
            "The inverse QR retraction needs a Q for which I + A = QR has a skew-Hermitian A and a positive diagonal.\n"
            f"Got R[{first}, {first}] = {float(diagonal[..., first].min()):.3g}.\n"
            "Use the exponential or Cayley retraction, or a base point nearer to Q."
        )


def require_unitary(Q: Tensor, name: str) -> None:
    """Raise `OffManifoldError` if ``Q`` is further from orthonormal columns than any drift leads."""
    require_matrix(Q, name)
    require_finite(Q, name)

    def check(Q: Tensor) -> None:
        distance = float(defect(Q).max()) if Q.numel() else 0.0
        if not distance <= _FAR:
            raise OffManifoldError(
                f"{name} needs an orthogonal or unitary matrix.\n"
                f"Got one at distance {distance:.3g}, the norm of Q^H Q - I.\nProject it first with manifold.projx."
            )

    on_numbers(check, Q)


def require_no_minus_one(Q: Tensor, name: str) -> None:
    """Raise `OffManifoldError` if ``I + Q`` is singular to working precision."""
    require_matrix(Q, name)
    require_finite(Q, name)

    def check(Q: Tensor) -> None:
        gap = float(torch.linalg.svdvals(Q + _eye(Q)).min()) if Q.numel() else 1.0
        if gap <= _tolerance(Q):
            raise OffManifoldError(
                f"{name} needs a matrix without the eigenvalue -1, where its value is infinite or not unique.\n"
                f"Got an eigenvalue at distance {gap:.3g} from -1, within the tolerance {_tolerance(Q):.3g}.\n"
                "A real matrix of determinant -1 always has it: choose a base point in the same component."
            )

    on_numbers(check, Q)


def _tolerance(Q: Tensor) -> float:
    return 4.0 * float(torch.finfo(Q.dtype).eps) ** 0.5


def _eye(Q: Tensor) -> Tensor:
    return torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)
