"""The QR factorization with positive diagonal, by reflections or from the Gram matrix, with its own adjoint."""

from typing import Any

import torch
from torch import Tensor

from .checks import TooFar, require_matrix, require_regular
from .defect import minus_identity, shift_diagonal
from .norms import normalized
from .precision import (
    applied,
    double,
    full_precision,
    host_max,
    largest_norm,
    may_read_device,
    recorded,
    recording,
    without_autocast,
)
from .product import multiply, multiply_add

_FAR = 1e2  # norm of X^H X - I above which reflections are used
_ONE_ROUND = 0.75  # norm of X^H X - I below which one Cholesky round is accurate for every X


@full_precision
def qr(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""QR factorization with positive diagonal: unique, and continuous in ``x``.

    .. math:: X = QR, \qquad Q^H Q = I, \quad R \text{ upper triangular}, \quad R_{ii} > 0.

    Parameters
    ----------
    x : Tensor, shape (..., n, p), n >= p
        A real or complex matrix of full column rank.

    Returns
    -------
    Q : Tensor, shape (..., n, p)
    R : Tensor, shape (..., p, p)

    Raises
    ------
    ShapeError, DtypeError
        If ``x`` is not a batch of square or tall floating point matrices.

    Notes
    -----
    It uses Householder reflections, which are accurate at every condition number; `cholesky_qr` is faster near
    orthonormal columns. Both have the same adjoint. Source: Walter and Lehmann (2018) for the derivative. At a singular
    matrix there is none. A backward pass on a CPU then raises `NonFiniteError`, and on other devices it has no correct
    digit.

    Examples
    --------
    >>> Q, R = mr.linalg.qr(torch.randn(5, 3, dtype=torch.float64))
    >>> assert mr.linalg.defect(Q) < 1e-14 and (R.diagonal() > 0).all()
    """
    require_matrix(x, "qr", tall=True)
    Q, R = recorded(_QR, x, False, False)
    return Q, R


@full_precision
def cholesky_qr(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""QR factorization from the Cholesky factor of the Gram matrix, fast near orthonormal columns.

    .. math:: R^H R = X^H X, \qquad Q = X R^{-1}.

    The number of Cholesky rounds depends on the distance :math:`d = \|X^H X - I\|_F`. If :math:`d^2` is below the
    rounding error of ``Q``, a first-order formula is enough. One round is made up to :math:`d = \tfrac34`, and two up
    to :math:`10^2`. Beyond that, or if the first round did not come near orthonormal columns, `qr` is used.

    Parameters
    ----------
    x : Tensor, shape (..., n, p), n >= p
        A real or complex matrix.

    Returns
    -------
    Q : Tensor, shape (..., n, p)
    R : Tensor, shape (..., p, p)

    Raises
    ------
    ShapeError, DtypeError
        If ``x`` is not a batch of square or tall floating point matrices.

    Notes
    -----
    A round costs one matrix product, a Cholesky factorization and a triangular solve. If no number may be read from the
    device, two rounds are made. The result is NaN if they are not enough, at condition numbers above about 1000 in
    single precision. Source: Yamamoto, Nakatsukasa, Yanagisawa and Fukaya (2015).

    Examples
    --------
    >>> x = torch.eye(4, dtype=torch.float64) + 0.1 * torch.randn(4, 4, dtype=torch.float64)
    >>> assert torch.allclose(mr.linalg.cholesky_qr(x)[0], mr.linalg.qr(x)[0])
    """
    require_matrix(x, "cholesky_qr", tall=True)
    Q, R = recorded(_QR, x, True, False)
    return Q, R


def near_factor(x: Tensor) -> Tensor:
    """Return the ``Q`` of `cholesky_qr`; raises `TooFar` if ``x`` should have been added up in double precision."""
    if recording() or not may_read_device():
        Q: Tensor = recorded(_QR, x, True, True)[0]
        return Q
    beyond = shift_diagonal(multiply(x.mH, x), -1.0)
    far = largest_norm(beyond)
    if not far <= _FAR:  # NaN included
        raise TooFar
    return _first_order(x, beyond) if _is_tiny(far, x) else _cholesky_rounds(x, beyond, far)[0]


class _QR(torch.autograd.Function):
    """Map ``(x, near, only)`` to the factors. ``near`` allows the Cholesky form, ``only`` raises `TooFar` beyond it."""

    @staticmethod
    def forward(x: Tensor, near: bool, only: bool) -> tuple[Tensor, Tensor]:
        if not near:
            return _householder(x)
        beyond = shift_diagonal(multiply(x.mH, x), -1.0)
        far = largest_norm(beyond) if may_read_device() else 2.0
        if only and not far <= _FAR:
            raise TooFar
        if _is_tiny(far, x):
            return _first_order(x, beyond), shift_diagonal(beyond, 1.0)
        return _cholesky_rounds(x, beyond, far)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, bool, bool], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, gQ: Tensor, gR: Tensor) -> tuple[Tensor, None, None]:
        Q, R = ctx.saved_tensors
        with without_autocast(Q):
            require_regular(_unscaled_diagonal(R), "The QR factorization")
            M = multiply(R, gR.mH) - multiply(gQ.mH, Q)
            lower = M.tril(-1)
            # the diagonal of R is real, so only the real part of the diagonal of M contributes
            symmetric = lower + lower.mH + torch.diag_embed(M.diagonal(dim1=-2, dim2=-1).real).to(M.dtype)
            return torch.linalg.solve_triangular(R.mH, gQ + multiply(Q, symmetric), upper=False, left=False), None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, None, None], x: Tensor, near: bool, only: bool
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        return applied(_QR, x.movedim(in_dims[0], 0), near, only), (0, 0)


def _unscaled_diagonal(R: Tensor) -> Tensor:
    """Return moduli of the diagonal relative to the largest entry of each column, whose scale has no effect on Q."""
    sizes = R.detach().abs()
    largest = sizes.amax(-2)
    return sizes.diagonal(dim1=-2, dim2=-1) / torch.where(largest > 0, largest, 1)


def _householder(x: Tensor) -> tuple[Tensor, Tensor]:
    even, scale = normalized(x)
    Q, R = torch.linalg.qr(even)
    d = R.diagonal(dim1=-2, dim2=-1)
    phase = torch.where(d == 0, torch.ones_like(d), d.sgn())
    return Q * phase.unsqueeze(-2), R * phase.conj().unsqueeze(-1) * scale


def _householder_indouble(x: Tensor) -> tuple[Tensor, Tensor]:
    """Factor in double precision, since an ill-conditioned matrix loses as many digits as its condition number has."""
    Q, R = _householder(double(x))
    return Q.to(x.dtype), R.to(x.dtype)


def _cholesky_rounds(x: Tensor, beyond: Tensor, far: float) -> tuple[Tensor, Tensor]:
    """Return the factors, given ``beyond = X^H X - I`` of norm ``far``; ``beyond`` is overwritten."""
    if not far <= _FAR:  # NaN included
        return _householder_indouble(x)
    R = torch.linalg.cholesky_ex(shift_diagonal(beyond, 1.0)).L.mH
    Q = torch.linalg.solve_triangular(R, x, upper=True, left=False)
    if far <= _ONE_ROUND:
        return Q, R
    gram = multiply(Q.mH, Q)
    still = torch.linalg.matrix_norm(minus_identity(gram), keepdim=True)
    if may_read_device():
        if not host_max(still) <= _ONE_ROUND:
            return _householder_indouble(x)
    else:
        gram = torch.where(still <= _ONE_ROUND, gram, torch.nan)
    R2 = torch.linalg.cholesky_ex(gram).L.mH
    return torch.linalg.solve_triangular(R2, Q, upper=True, left=False), R2 @ R


def _is_tiny(far: float, x: Tensor) -> bool:
    """Return whether the square of ``far``, the norm of ``X^H X - I``, is below rounding errors of ``Q``.

    The second-order term is at most 0.9 of that square in the Frobenius norm. The triangle of a Hermitian matrix with
    half the diagonal has at most 0.71 of its norm.
    """
    return far**2 < torch.finfo(x.dtype).eps * x.shape[-1] ** 0.5


def _first_order(x: Tensor, beyond: Tensor) -> Tensor:
    """Return ``Q`` for a tiny ``beyond = X^H X - I``; ``beyond`` becomes ``R - I``, its triangle with half diagonal."""
    upper = beyond.triu_()
    upper.diagonal(dim1=-2, dim2=-1).mul_(0.5)
    return multiply_add(x, x, upper, beta=1, alpha=-1)
