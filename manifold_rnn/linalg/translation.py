r"""A point times the map of a skew-Hermitian matrix, for optimizer steps and trivialized weights.

If nothing is recorded, as in an optimizer, a small matrix uses a series applied to the point. A recorded product has
one adjoint for both factors, which takes fewer products than the two adjoints one after the other.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .._kernels import translations
from .._torch import apply_function, has_dispatch_mode, is_watched, sees_every_step
from .cayley import SERIES_BELOW, cayley_of_skew, inverse_polynomial
from .checks import require_same
from .exponential import exp_polynomial, expm_skew, short_exponential, truncated_exponential
from .polynomials import exponent, on_imaginary_axis
from .precision import batched, largest_norm, may_read_device, recording, without_autocast
from .product import multiply, multiply_add
from .skew import skew, unpack_skew

Unpack: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # maps a point and coordinates to the matrix

_SHORT = 1.5  # norm of half the matrix up to which one polynomial gives the exponential
_FEW_COLUMNS = 64
_MOST_DEGREE = 25  # of compiled polynomials, whose memory for powers is limited
_FEWEST_COLUMNS, _MOST_COLUMNS = 2, 256  # sizes for which the compiled calls are faster


def cayley_times(x: Tensor, A: Tensor) -> Tensor:
    """Return ``x cay(A)`` for a skew-Hermitian ``A``; if nothing is recorded, a small ``A`` uses a series.

    The remainder of the series is at most twice the next power of ``B = A/2``, since the inverse of ``I - B`` has norm
    at most 1. It is below the rounding unit, relative to the Frobenius norm of the result.
    """
    if recording():
        recorded: Tensor = cayley_reference(x, A) if _is_general() else apply_function(_CayleyTimes, x, A)
        return recorded
    if not may_read_device():
        return cayley_reference(x, A)
    unit, bound = 0.25 * torch.finfo(A.dtype).eps * A.shape[-1] ** 0.5, 0.5 * largest_norm(A)
    if not bound < 1:  # NaN included
        return cayley_reference(x, A)
    B = 0.5 * A
    xB = multiply(x, B)
    if bound**3 < unit:
        return multiply_add(xB, xB, B, beta=2, alpha=2).add_(x)
    B2 = multiply(B, B)
    bound = largest_norm(B2)
    more = next((k for k in range(3) if bound ** (2 + k) < unit), None)
    if more is None:
        return cayley_reference(x, A)
    odd = multiply(xB, B.add_(B2))  # x (B^2 + B^3), the next two powers after each product with B^2
    total = xB.add_(odd)
    for _ in range(more):
        odd = multiply(odd, B2)
        total.add_(odd)
    return total.mul_(2).add_(x)


def expm_times(x: Tensor, A: Tensor) -> Tensor:
    """Return ``x exp(A)`` for a skew-Hermitian ``A``; if nothing is recorded, a small ``A`` uses a series.

    The remainder of a series of degree d is at most ``|A|^(d+1) / (d+1)!``. It is below the rounding unit, relative to
    the Frobenius norm of the result.
    """
    if recording():
        return expm_reference(x, A) if _is_general() else _by_halves(x, A)
    if not may_read_device():
        return expm_reference(x, A)
    unit, size = 0.25 * torch.finfo(A.dtype).eps * A.shape[-1] ** 0.5, largest_norm(A)
    if not size < 1:  # NaN included
        return multiply(x, expm_skew(A))
    if size**3 < 6 * unit:
        xA = multiply(x, A)
        return multiply_add(xA, xA, A, beta=1, alpha=0.5).add_(x)
    A2 = multiply(A, A)
    square = largest_norm(A2)
    if square**2 < 24 * unit:
        xA = multiply(x, A)
        return multiply_add(xA, xA, torch.add(0.5 * A, A2, alpha=1 / 6), beta=1, alpha=1).add_(x)
    return multiply(x, short_exponential(A, A2) if square ** (5 / 2) < 120 * unit else expm_skew(A))


def unpack_at(x: Tensor, c: Tensor) -> Tensor:
    """Return the skew-Hermitian matrix with the coordinates ``c``, in the size of the point ``x``."""
    A = unpack_skew(c, x.dtype)
    require_same(x, A, "A point with coordinates")
    return A


def cayley_reference(x: Tensor, A: Tensor) -> Tensor:
    """Compute `cayley_times` by its definition, as two factors with separate derivatives."""
    return multiply(x, cayley_of_skew(A))


def expm_reference(x: Tensor, A: Tensor) -> Tensor:
    """Compute `expm_times` by its definition, as two factors with separate derivatives."""
    return x @ expm_skew(A)  # not `multiply`, which rounds differently if nothing is recorded


def cayley_coordinates(x: Tensor, c: Tensor, unpack: Unpack = unpack_at) -> Tensor:
    """Return `cayley_times` of the skew-Hermitian matrix with coordinates ``c``, recorded in one call if possible."""
    if unpack is unpack_at and _is_compiled(x, c):
        largest = translations.halve_and_square(c, x.shape[-1]) * 0.5**0.5  # real eigenvalues come in pairs
        if largest < SERIES_BELOW and (series := _cayley_series(exponent(largest), torch.finfo(x.dtype).eps)):
            return _compiled(x, c, series, None)
    A = unpack(x, c)
    if c.requires_grad and x.shape[-1] < _FEW_COLUMNS:  # for these sizes a call costs more than a product
        return cayley_reference(x, A)
    return cayley_reference(x, A) if _is_trained_elsewhere(c) else cayley_times(x, A)


def expm_coordinates(x: Tensor, c: Tensor, unpack: Unpack = unpack_at) -> Tensor:
    """Return `expm_times` of the skew-Hermitian matrix with coordinates ``c``, recorded in one call if possible."""
    if unpack is unpack_at and _is_compiled(x, c):
        size = (translations.halve_and_square(c, x.shape[-1]) * 0.5**0.5) ** 0.5
        if size <= _SHORT and (series := _exp_series(exponent(size), torch.finfo(x.dtype).eps)):
            return _compiled(x, c, *series)
        if size > _SHORT:
            return expm_reference(x, unpack(x, c))
    A = unpack(x, c)
    return _by_halves(x, A) if _is_trained_elsewhere(c) else expm_times(x, A)


def _is_trained_elsewhere(c: Tensor) -> bool:
    """Return whether a trained weight is computed without recording: it must equal the recorded value exactly."""
    return c.requires_grad and may_read_device() and not recording()


@functools.cache
def _cayley_series(step: int, eps: float) -> translations.Polynomials | None:
    """Return the polynomials of the Cayley transform, or None if they are too long."""
    inverse = inverse_polynomial(step, eps)
    if len(inverse) - 1 > _MOST_DEGREE:
        return None
    return translations.Polynomials((inverse[0] - 1, *inverse[1:]), inverse, shared=True)


@functools.cache
def _exp_series(step: int, eps: float) -> tuple[translations.Polynomials, tuple[float, ...]] | None:
    """Return the polynomials of the exponential, and those of `_sinhc_ad` for its adjoint; None if too long."""
    powers = exp_polynomial(step, eps)
    if len(powers) - 1 > _MOST_DEGREE:
        return None
    terms = tuple(4**k * term for k, term in enumerate(_sinhc_polynomial(step + 8, eps)))  # for half the matrix
    return translations.Polynomials(powers[::2], powers[1::2], shared=False), terms


def _is_compiled(x: Tensor, c: Tensor) -> bool:
    """Return whether a compiled call may compute the product: of one matrix, with a gradient only for coordinates."""
    if _is_general() or not c.requires_grad or x.requires_grad or x.ndim != 2 or c.ndim != 1 or c.dtype != x.dtype:
        return False
    rows, n = x.shape
    if rows != n or not _FEWEST_COLUMNS <= n <= _MOST_COLUMNS or 2 * len(c) != n * (n - 1) or is_watched(x, c):
        return False
    return translations.can_be_compiled(x)


def _compiled(x: Tensor, c: Tensor, series: translations.Polynomials, terms: tuple[float, ...] | None) -> Tensor:
    if not torch.is_grad_enabled():
        return translations.translate(x, series, twice=terms is not None)[0]
    W: Tensor = apply_function(_Compiled, x, c, series, terms)
    return W


class _Compiled(torch.autograd.Function):
    """`cayley_coordinates`, or `expm_coordinates` if there are terms for its adjoint, by the formulas below."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, c: Tensor, series: Any, terms: Any) -> Tensor:
        W, M, Ft = translations.translate(x, series, twice=terms is not None)
        ctx.save_for_backward(x, c, M, Ft)
        ctx.terms = terms
        return W

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, c, M, Ft = ctx.saved_tensors
        unlike = type(g) is not Tensor or g.layout != torch.strided or has_dispatch_mode()
        if torch.is_grad_enabled() or batched(g) or unlike:
            reference = cayley_reference if ctx.terms is None else expm_reference
            gc = _derived(lambda x, c: reference(x, unpack_at(x, c)), ctx, x, c, g)[1]
        elif ctx.terms is None:
            gc = translations.adjoint_of_cayley(g, c, M, Ft)
        else:
            gc = translations.adjoint_of_exponential(g, c, M, Ft, ctx.terms)
        return None, gc, None, None


def _is_general() -> bool:
    """Return whether the functions below cannot be used: they read numbers and do not support transforms."""
    return not may_read_device() or sees_every_step()


class _CayleyTimes(torch.autograd.Function):
    r"""With ``C = cay(A)`` and ``W = x C``, ``(I + C^H) x^H = (x + W)^H``, so ``dL/dA`` takes two products.

    .. math:: \frac{\partial L}{\partial A} = \tfrac14 (I + C^H)\,x^H G\,(I + C^H) = \tfrac14 (x + W)^H G (I + C^H).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor) -> Tensor:
        C = cayley_of_skew(A)
        W = multiply(x, C)
        ctx.save_for_backward(x, A, C, x + W)
        return W

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, A, C, total = ctx.saved_tensors
        if torch.is_grad_enabled() or batched(g):
            return _derived(cayley_reference, ctx, x, A, g)
        with without_autocast(x):
            gx = multiply(g, C.mH) if ctx.needs_input_grad[0] else None
            if not ctx.needs_input_grad[1]:
                return gx, None
            K = multiply(total.mH, g)
            return gx, multiply_add(K, K, C.mH, beta=0.25, alpha=0.25)


def _by_halves(x: Tensor, A: Tensor) -> Tensor:
    with torch.no_grad():
        half = 0.5 * A
        square = multiply(half, half)
        size = largest_norm(square) * (1 if A.is_complex() else 0.5**0.5)  # real eigenvalues come in pairs
        size = size**0.5  # |B|^2 = |B^2| for a normal B
    if not size <= _SHORT:  # NaN included
        return expm_reference(x, A)
    if not recording():
        E = truncated_exponential(half, square, size)
        return multiply(multiply(x, E), E)
    W: Tensor = apply_function(_ExpmTimes, x, A, half, square, size)
    return W


class _ExpmTimes(torch.autograd.Function):
    r"""With ``E = exp(A/2)`` and ``X = x E``, ``W = X E``, and the adjoint is an even function between two factors.

    .. math::
        \frac{\partial L}{\partial A} = \frac{e^{\operatorname{ad}_A} - 1}{\operatorname{ad}_A}
        \operatorname{skew}(W^H G) = \frac{\sinh(\operatorname{ad}_A / 2)}{\operatorname{ad}_A / 2}
        \operatorname{skew}(X^H G E^H).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor, half: Tensor, square: Tensor, size: float) -> Tensor:
        E = truncated_exponential(half, square, size)
        X = multiply(x, E)
        ctx.save_for_backward(x, A, E, X)
        ctx.size = size
        return multiply(X, E)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, A, E, X = ctx.saved_tensors
        if torch.is_grad_enabled() or batched(g):
            return *_derived(expm_reference, ctx, x, A, g), None, None, None
        with without_autocast(x):
            gEh = multiply(g, E.mH)
            gx = multiply(gEh, E.mH) if ctx.needs_input_grad[0] else None
            gA = _sinhc_ad(A, skew(multiply(X.mH, gEh)), 2 * ctx.size) if ctx.needs_input_grad[1] else None
            return gx, gA, None, None, None


def _sinhc_ad(A: Tensor, H: Tensor, size: float) -> Tensor:
    """Return ``sinh(ad_A / 2) / (ad_A / 2) H`` by a polynomial, with two products per term."""
    *others, last = _sinhc_polynomial(exponent(size), torch.finfo(A.dtype).eps)
    if not others:
        return last * H
    K, scale = H, last
    for c in reversed(others):
        # [A, K] = AK - (AK)^H and H = H/2 - (H/2)^H for skew-Hermitian A, K, H
        AK = multiply(A, K)
        AAK = multiply_add(H, A, AK - AK.mH, beta=0.5 * c, alpha=scale)
        K, scale = AAK - AAK.mH, 1.0
    return K


@functools.cache
def _sinhc_polynomial(step: int, eps: float) -> tuple[float, ...]:
    r"""Return coefficients of the even powers of a polynomial near :math:`\sinh(z/2) / (z/2)`.

    It is accurate for imaginary arguments up to twice :math:`r = 2^{step/8}`. The Chebyshev series up to degree d has a
    remainder of about :math:`2 (r/2)^{d+2} / (d+3)!`.
    """
    radius, degree = 2.0 ** (step / 8), 0
    while 2 * (radius / 2) ** (degree + 2) / math.factorial(degree + 3) > eps:
        degree += 2
    return on_imaginary_axis(_sinhc_power, 2 * radius, degree)[::2]


def _sinhc_power(n: int) -> float:
    return 0.0 if n % 2 else 0.5**n / math.factorial(n + 1)


def _derived(
    function: Callable[[Tensor, Tensor], Tensor], ctx: Any, x: Tensor, free: Tensor, g: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of the definition, for a second derivative or for many gradients at once."""
    create_graph, needed = torch.is_grad_enabled(), ctx.needs_input_grad[:2]
    with torch.enable_grad(), without_autocast(x):
        inputs = x.view_as(x), free.view_as(free)
        wanted = [t for t, need in zip(inputs, needed, strict=True) if need]
        found = iter(torch.autograd.grad(function(*inputs), wanted, g, create_graph=create_graph))
    return next(found) if needed[0] else None, next(found) if needed[1] else None
