"""The Cayley transform, with its own adjoint."""

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from .action import moved_by_group
from .angles import eigenangles, rotation_by
from .checks import TooFar, read_number, require_finite, require_length, require_matrix
from .defect import shift_diagonal
from .lu import inverse as inverse_of
from .polar import polish
from .polynomials import chebyshev_at_one, exponent, matrix_polynomial
from .precision import (
    applied,
    full_precision,
    largest_norm,
    may_read_device,
    recorded,
    without_autocast,
)
from .product import multiply, multiply_add
from .skew import skew

_WIDEN_ABOVE = 4.0  # root mean square of the eigenvalues; beyond it single precision leaves a defect above 1e-5
_POLISH_ABOVE = 64.0  # norm beyond which the inverse leaves a defect that one Newton-Schulz step removes
_LONG_ABOVE = 1e4  # norm beyond which I + A/2 loses the identity to rounding; eigenvectors do not
_MODERATE = 4.0  # norm of B^2 up to which I - B^2 is conditioned well enough
_FEW_COLUMNS = 256  # up to this size LU is slow compared with products
_WIDE = 96  # columns from which a factorization costs as much as six products
SERIES_BELOW = 1.0  # norm of B^2 above which every polynomial is too long
_WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}


@full_precision
def cayley(A: Tensor) -> Tensor:
    r"""Cayley transform of a skew-Hermitian matrix.

    .. math:: \operatorname{cay}(A) = (I - \tfrac12 A)^{-1}(I + \tfrac12 A) = 2 (I - \tfrac12 A)^{-1} - I.

    It agrees with :math:`\exp(A)` to second order and never has the eigenvalue -1. The inverse exists for every
    skew-Hermitian ``A`` and has norm at most 1, so it is safe to compute. The adjoint is two products with it.

    Parameters
    ----------
    A : Tensor, shape (..., n, n)
        A real or complex matrix; only its skew-Hermitian part is used.

    Returns
    -------
    Tensor, shape (..., n, n)
        Orthogonal (real) or unitary (complex).

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError
        If ``A`` is not a batch of square floating point matrices with finite entries.

    Notes
    -----
    Costs one inverse forward, or two to six products for a small matrix in single precision, and two products
    backward. In single precision the inverse is computed in double if the root mean square of the eigenvalues exceeds
    4. Rounding ``A`` alone would change the result by :math:`10^{-7}\|A\|`. This check is skipped where no number
    may be read from the device (compiled code, `fixed_iterations`). Norms above 10000 use an eigendecomposition, which
    does not overflow.

    Source: Cayley (1846); as a retraction Wen and Yin (2013). Helfrich, Willmott and Ye (2018) use
    :math:`(I + S)^{-1}(I - S)`, which is ``cay(-2 S)``.

    Examples
    --------
    >>> W = mr.linalg.cayley(torch.tensor([[0.0, -2.0], [2.0, 0.0]]))
    >>> assert torch.allclose(W, torch.tensor([[0.0, -1.0], [1.0, 0.0]]), atol=1e-6)
    """
    require_matrix(A, "cayley")
    return cayley_of_skew(skew(A))


def cayley_of_skew(A: Tensor) -> Tensor:
    """Compute `cayley` of a matrix that is already skew-Hermitian."""
    result: Tensor = recorded(_Cayley, A)
    return result


class _Cayley(torch.autograd.Function):
    @staticmethod
    def forward(A: Tensor) -> Tensor:
        if not may_read_device():
            eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
            return 2 * inverse_of(eye - 0.5 * A) - (eye + 0 * A)  # NaN where A is infinite
        size = largest_norm(A)
        if A.dtype in _WIDER and not size <= _WIDEN_ABOVE * A.shape[-1] ** 0.5:
            return _Cayley.forward(A.to(_WIDER[A.dtype])).to(A.dtype)
        if not size <= _LONG_ABOVE:  # NaN included
            require_length(A, "The Cayley transform", torch.finfo(A.dtype).max)
            return rotation_by(*eigenangles(A), lambda values: 2 * torch.atan(0.5 * values), real=not A.is_complex())
        W = shift_diagonal(_twice_inverse(A, 0.5 * size), -1)
        return polish(W) if size > _POLISH_ABOVE else W

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (W,) = ctx.saved_tensors
        with without_autocast(W):  # the gradient is a g a, with the adjoint a = (W^H + I) / 2 of the inverse
            ag = multiply_add(g, W.mH, g, beta=0.5, alpha=0.5)
            return multiply_add(ag, ag, W.mH, beta=0.5, alpha=0.5)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], A: Tensor) -> tuple[Tensor, int]:
        W: Tensor = applied(_Cayley, A.movedim(in_dims[0], 0))
        return W, 0


def _twice_inverse(A: Tensor, size: float) -> Tensor:
    r"""Return ``2 (I - B)^-1`` for ``B = A/2`` of norm ``size``.

    This is :math:`2 (I + B)(I - B^2)^{-1}`. For a small ``B`` the second factor is a polynomial in ``B^2``. For a
    moderate ``B`` it is computed by a Cholesky factorization, which has half the work of LU.
    """
    degree, few = _most_degree(A), A.dtype == torch.float32 and A.shape[-1] <= _FEW_COLUMNS
    if (degree and size < 1) or (few and size**2 <= _MODERATE * A.shape[-1] ** 0.5):  # |B|^2 <= |B^2| n^(1/2)
        B = 0.5 * A
        B2 = multiply(B, B)
        norm = largest_norm(B2)
        largest = norm if A.is_complex() else norm * 0.5**0.5  # real eigenvalues come in pairs
        if largest < SERIES_BELOW:
            coefficients = inverse_polynomial(exponent(largest), torch.finfo(A.dtype).eps)
            if len(coefficients) - 1 <= degree:
                P = matrix_polynomial(B2, coefficients)
                return multiply_add(P, B, P, beta=1, alpha=1)
        if few and norm <= _MODERATE:
            inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(shift_diagonal(-B2, 1)).L)
            return multiply_add(inverse, B, inverse, beta=2, alpha=2)
    return inverse_of(shift_diagonal(-0.5 * A, 1)).mul_(2)  # never singular, so no check is needed


def _most_degree(A: Tensor) -> int:
    """Return the largest degree at which a polynomial costs less than a factorization."""
    if A.device.type != "cpu":
        return 9
    return 0 if A.dtype != torch.float32 else 9 if A.shape[-1] >= _WIDE else 4


@functools.cache
def inverse_polynomial(step: int, eps: float) -> tuple[float, ...]:
    r"""Return coefficients of a polynomial near :math:`2 / (1 - s)` for ``s`` from :math:`-r = -2^{step/8}` to 0.

    With ``m = r / 2``, ``a = 1 + 1/m`` and :math:`\rho = a + \sqrt{a^2 - 1}`, the polynomial is

    .. math:: \frac{4}{m \sqrt{a^2 - 1}} \Bigl(\tfrac12 + \sum_{k=1}^{d-1} \rho^{-k} T_k
        + \frac{\rho^{-d}}{1 - \rho^{-2}} T_d\Bigr),

    where :math:`T_k = T_k(1 + s/m)`. It is the best one of degree d, with an error of
    :math:`\tfrac{2}{m} \rho^{-d} / (a^2 - 1)` (Bernstein 1912). All numbers are positive, so no digit is lost, and up
    to ``r = 1`` the coefficients are at most 2. The first is exactly 2, so that a weight with coordinates 0 equals its
    base exactly.
    """
    m, degree = 2.0 ** (step / 8) / 2, 1
    root = math.sqrt((2 + 1 / m) / m)  # of a^2 - 1
    ratio = 1 / (1 + 1 / m + root)
    while 2 / m * ratio**degree / root**2 > eps / 2:
        degree += 1
    terms = [ratio**k for k in range(degree)] + [ratio**degree / (1 - ratio**2)]
    powers = (
        math.fsum(terms[k] * chebyshev_at_one(k)[j] for k in range(j, degree + 1)) / m**j for j in range(1, degree + 1)
    )
    return 2.0, *(4 / (m * root) * c for c in powers)


_TALL_LONG_ABOVE = {torch.float32: 64.0, torch.float64: 1e3}  # norm of the inverse of `a`, which amplifies rounding


def cayley_tall(x: Tensor, u: Tensor) -> Tensor:
    r"""Return the curve of `retractions.Cayley` for tall matrices, along the tangent part of ``u``.

    With :math:`A = \operatorname{skew}(x^H u)` and :math:`o = u - x x^H u` it is :math:`x (2a - I) + o a`, where
    :math:`a = (I - \tfrac12 A + \tfrac14 o^H o)^{-1}`. Where the square would lose digits, use `moved_by_group`.
    """
    try:
        y: Tensor = recorded(_CayleyTall, x, u)[0]
    except TooFar:
        require_finite(x, "The Cayley retraction")
        require_length(u, "The Cayley retraction", torch.finfo(u.dtype).max)
        y = moved_by_group(cayley, x, u)
    return y


class _CayleyTall(torch.autograd.Function):
    """Map ``(x, u)`` to ``(y, x^H u, o, a)``; all but the first are saved for the adjoint."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        xu, outside, a = _tall_parts(x, u)
        eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        return x @ (2 * a - eye) + outside @ a, xu, outside, a

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> tuple[Tensor | None, Tensor | None]:
        if g is None:
            return None, None
        x, u, xu, outside, a = ctx.saved_tensors
        with without_autocast(x):
            if torch.is_grad_enabled():  # a second derivative needs the parts as functions of x and u
                xu, outside, a = _tall_parts(x, u)
            xg, og, aH = x.mH @ g, outside.mH @ g, a.mH
            gM = -(aH @ (2 * xg + og) @ aH)
            g_outside = g @ aH + outside @ (0.25 * (gM + gM.mH))
            g_xu = skew(-0.5 * gM) - x.mH @ g_outside
            gu = g_outside + x @ g_xu
            if not ctx.needs_input_grad[0]:
                return None, gu
            eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
            return g @ (2 * aH - eye) - g_outside @ xu.mH + u @ g_xu.mH, gu


def _tall_parts(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    xu = x.mH @ u
    outside = u - x @ xu
    M = 0.25 * (outside.mH @ outside) - 0.25 * (xu - xu.mH)
    M = M + torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)
    if may_read_device() and not read_number(largest_norm, M) <= _TALL_LONG_ABOVE[M.real.dtype]:  # NaN included
        raise TooFar
    return xu, outside, inverse_of(M)
