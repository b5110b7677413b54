"""The exponential of a skew-Hermitian matrix, with its own adjoint."""

import functools
import math
from typing import Any

import torch
from torch import Tensor

from .._torch import constant_result, has_dispatch_mode, is_traced
from .angles import eigenangles, rotation_by
from .checks import require_length, require_matrix
from .polar import polish
from .polynomials import exponent, matrix_polynomial, on_imaginary_axis
from .precision import (
    applied,
    batched,
    double,
    full_precision,
    host_max,
    may_read_device,
    recorded,
    recording,
    without_autocast,
)
from .product import multiply, multiply_add
from .skew import skew

_FIXED_SQUARINGS = 12  # if no number may be read from the device; for norms up to about 3000 in float32, 900 in float64
_WIDEN_ABOVE = 5  # more squarings are done in double precision: each doubles the rounding error
_EIGEN_ABOVE = 12  # more squarings lose digits of double precision, so eigenvectors are used instead
_POLISH_ABOVE = 2  # more squarings leave a defect that one Newton-Schulz step removes
_OVERFLOW = 60.0  # squarings if the norm overflows
_SMALL = 0.064  # norm below which degree 4 is enough in single precision
_RADIUS = {torch.float32: 0.8, torch.float64: 0.65}  # norm at which the Taylor remainder is below the rounding unit


@full_precision
def expm_skew(A: Tensor) -> Tensor:
    r"""Exponential of a skew-Hermitian matrix.

    .. math:: \exp(A) = \bigl(p(2^{-s}A)\bigr)^{2^s}, \qquad p \text{ a Taylor polynomial}.

    The gradient is the exact adjoint instead of that of these steps. Each of its steps is an average of isometries:

    .. math::
        \frac{\partial L}{\partial A} = \varphi(\operatorname{ad}_A)\operatorname{skew}(W^H G), \quad
        \varphi(z) = \frac{e^z - 1}{z}, \quad \varphi(2z) = \tfrac12 (e^z + 1)\,\varphi(z), \quad
        e^{\operatorname{ad}_B} K = e^B K e^{-B}.

    Parameters
    ----------
    A : Tensor, shape (..., n, n)
        A real or complex matrix; only its skew-Hermitian part is used.

    Returns
    -------
    Tensor, shape (..., n, n)
        Special orthogonal (real) or unitary (complex).

    Raises
    ------
    ShapeError, DtypeError
        If ``A`` is not a batch of square floating point matrices.
    NonFiniteError
        If ``A`` has an entry that is not finite, or larger than 1e12: its rounding error would be a large angle.

    Notes
    -----
    Costs about 2 to 10 matrix products forward and 5 to 25 backward, growing with the norm. Norms above about 25 in
    single precision are computed in double. Norms above about 2500 are computed by eigenvectors. If no number may be
    read from the device (compiled code, `fixed_iterations`), 12 squarings are always made. A norm too large for them
    gives NaN. Source: Higham (2005) for scaling and squaring, Higham (2008), chapter 10, for the derivative.

    Examples
    --------
    >>> W = mr.linalg.expm_skew(torch.tensor([[0.0, -torch.pi], [torch.pi, 0.0]]))
    >>> assert torch.allclose(W, -torch.eye(2), atol=1e-6)
    """
    require_matrix(A, "expm_skew")
    # a trace would fix the number of results
    W: Tensor = (_Expm.forward(A) if is_traced() else recorded(_Expm, A))[0]
    return W


def short_exponential(A: Tensor, A2: Tensor) -> Tensor:
    """Return the Taylor polynomial of degree 4, given the square of ``A``."""
    half = torch.add(A * (1 / 6), A2, alpha=1 / 24)
    return _plus_identity(multiply_add(torch.add(A, A2, alpha=0.5), A2, half, beta=1, alpha=1), 1)


class _Expm(torch.autograd.Function):
    """Map ``A`` to ``(exp A, B = 2^-s A, |B|, s, exp B, exp 2B, ...)``; all but the first are saved for the adjoint.

    For a large ``A`` the result is ``(exp A, lambda, V)`` instead, with its eigenangles and eigenvectors.
    """

    @staticmethod
    def forward(A: Tensor) -> tuple[Tensor, ...]:
        parts = _powers(skew(A))
        if parts is None:
            require_length(A, "The exponential")
            values, V = eigenangles(skew(A))
            return rotation_by(values, V, lambda a: a, real=not A.is_complex()).to(A.dtype), values, V
        B, bound, squarings, powers = parts
        W = powers[-1]
        single = W.dtype in (torch.float32, torch.complex64)
        if len(powers) - 1 > (_POLISH_ABOVE if single else _WIDEN_ABOVE):
            W = polish(W)  # every squaring doubles the defect
        return W.to(A.dtype), B, bound, squarings, *powers[:-1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], *output)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> Tensor | None:
        if g is None:
            return None
        A, *kept = ctx.saved_tensors
        kept = [t.detach() for t in kept]
        # compiled code cannot trace a variable number of arguments or second derivatives
        if torch.compiler.is_compiling():
            return _adjoint(A, g, *kept)
        K: Tensor = recorded(_Adjoint, A, g, *kept)
        return K

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], A: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        out = applied(_Expm, A.movedim(in_dims[0], 0))
        return out, (0,) * len(out)


class _Adjoint(torch.autograd.Function):
    """Map ``(A, G)`` to ``dL/dA``, given the tensors that the exponential saved."""

    @staticmethod
    def forward(*args: Tensor) -> Tensor:
        return _adjoint(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        A, G, W, *kept = ctx.saved_tensors
        dA, dG = None, None
        with without_autocast(A):
            if ctx.needs_input_grad[0]:  # second derivatives are rare, so torch differentiates the block formula
                (dA,) = torch.func.vjp(lambda A: adjoint_by_block_exponential(A, G), A)[1](g)
            if ctx.needs_input_grad[1]:  # the derivative along g, by the same steps
                E = expm_skew(A) if recording() else W  # W itself has no derivative
                dG = multiply(recorded(_Adjoint, A, multiply(E, skew(g)), W, *kept), E)
        return dA, dG, *(None for _ in ctx.needs_input_grad[2:])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Tensor) -> tuple[Tensor, int]:
        size = info.batch_size
        front = [a.expand(size, *a.shape) if d is None else a.movedim(d, 0) for a, d in zip(args, in_dims, strict=True)]
        result: Tensor = applied(_Adjoint, *front)
        return result, 0


def _adjoint(A: Tensor, G: Tensor, W: Tensor, *kept: Tensor) -> Tensor:
    if len(kept) == 2:
        return _adjoint_by_eigenvectors(G, W, *kept)
    B, bound, s, *powers = kept
    with without_autocast(A):
        K = _phi_ad(B, skew(multiply(W.mH, G)).to(B.dtype), _largest(bound))
        for k, E in enumerate(powers):
            K = _where_due(s, k, multiply_add(K, multiply(E, K), E.mH, beta=0.5, alpha=0.5), K)
        return K.to(A.dtype)


def _adjoint_by_eigenvectors(G: Tensor, W: Tensor, values: Tensor, V: Tensor) -> Tensor:
    half = 0.5 * (values.unsqueeze(-1) - values.unsqueeze(-2))
    phi = torch.polar(torch.ones_like(half), half) * torch.sinc(half / math.pi)
    with without_autocast(G):
        K = V @ (phi * (V.mH @ skew(W.mH @ G).to(V.dtype) @ V)) @ V.mH
    return (K if G.is_complex() else K.real).to(G.dtype)


def adjoint_by_block_exponential(A: Tensor, G: Tensor) -> Tensor:
    r"""Compute the same adjoint from one exponential of twice the size, as a reference.

    The adjoint is the upper right block of :math:`\exp\begin{pmatrix} A^H & G \\ 0 & A^H \end{pmatrix}`, made skew.
    """
    A, n = skew(A), A.shape[-1]
    upper = torch.cat([A.mH, G], -1)
    lower = torch.cat([torch.zeros_like(G), A.mH], -1)
    return skew(torch.linalg.matrix_exp(torch.cat([upper, lower], -2))[..., :n, n:])


def _powers(A: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]] | None:
    """Return ``B = 2^-s A``, a bound of its norm, ``s`` for every matrix, and ``exp(B), exp(2B), ..., exp(A)``.

    Returns None if ``A`` is too large for squarings, or not finite.
    """
    A2 = multiply(A, A)
    bound = _norm_bound(A2, 2)
    if may_read_device() and A.dtype in (torch.float32, torch.complex64) and host_max(bound) < _SMALL:
        return A.clone(), bound, torch.zeros_like(bound), [short_exponential(A, A2)]
    A3 = multiply(A2, A)
    bound = torch.minimum(bound, _norm_bound(A3, 3))
    squarings = (
        torch.ceil(torch.log2(bound / _RADIUS[bound.dtype])).nan_to_num(_OVERFLOW, _OVERFLOW, 0.0).clamp(0, _OVERFLOW)
    )
    most = int(host_max(squarings)) if may_read_device() else _FIXED_SQUARINGS
    if most > _WIDEN_ABOVE and bound.dtype == torch.float32 and may_read_device():
        return _powers(double(A))
    if most > _EIGEN_ABOVE and may_read_device():
        return None
    if not may_read_device():
        A = torch.where(squarings > most, torch.nan, A)
    scale = torch.exp2(-squarings)
    B = A * scale
    powers = [_taylor(B, A2 * scale.square(), A3 * scale.pow(3))]
    for k in range(most):
        E = powers[-1]
        powers.append(_where_due(squarings, k, multiply(E, E), E))
    return B, bound * scale, squarings, powers


def _norm_bound(power: Tensor, k: int) -> Tensor:
    """Return a bound of the spectral norm of ``A`` from its k-th power: ``|A|^k = |A^k|`` since ``A`` is normal."""
    pairs = 1 if power.is_complex() else 2  # multiplicity of each eigenvalue modulus
    return (torch.linalg.matrix_norm(power, keepdim=True) * pairs**-0.5).pow(1 / k)


def _largest(bound: Tensor) -> float:
    return min(host_max(bound), _RADIUS[bound.dtype]) if may_read_device() else _RADIUS[bound.dtype]


def _where_due(squarings: Tensor, k: int, doubled: Tensor, kept: Tensor) -> Tensor:
    """Return ``doubled`` for the matrices that need the k-th squaring, and ``kept`` for the others."""
    alone = squarings.numel() == 1 and may_read_device()
    return doubled if alone else torch.where(squarings > k, doubled, kept)


def _taylor(B: Tensor, B2: Tensor, B3: Tensor) -> Tensor:
    """Return the Taylor polynomial of degree 9 or 15, by the scheme of Paterson and Stockmeyer (1973)."""
    degree = 9 if B.dtype in (torch.float32, torch.complex64) else 15
    c = [1 / math.factorial(k) for k in range(degree + 1)]
    P = c[degree] * B3
    for k in range(degree - 3, -1, -3):
        P = _plus_identity(P.add_(B, alpha=c[k + 1]).add_(B2, alpha=c[k + 2]), c[k])
        P = multiply(P, B3) if k else P
    return P


def truncated_exponential(B: Tensor, B2: Tensor, size: float) -> Tensor:
    """Return the exponential of ``B`` of spectral norm ``size`` and with the square ``B2``, without squarings."""
    return matrix_polynomial(B, exp_polynomial(exponent(size), torch.finfo(B.dtype).eps), B2)


@functools.cache
def exp_polynomial(step: int, eps: float) -> tuple[float, ...]:
    r"""Return coefficients of a polynomial near ``exp`` for imaginary arguments up to :math:`r = 2^{step/8}`.

    The Chebyshev series has a remainder of about :math:`2 (r/2)^{d+1} / (d+1)!` at degree d. The first coefficient is
    exactly 1, so that a weight with coordinates 0 equals its base exactly.
    """
    radius, degree = 2.0 ** (step / 8), 2
    while 2 * (radius / 2) ** (degree + 1) / math.factorial(degree + 1) > eps / 4:
        degree += 1
    return 1.0, *on_imaginary_axis(lambda n: 1 / math.factorial(n), radius, degree)[1:]


def _plus_identity(P: Tensor, c: float) -> Tensor:
    P.diagonal(dim1=-2, dim2=-1).add_(c)
    return P


def _phi_ad(B: Tensor, H: Tensor, radius: float) -> Tensor:
    """Return ``phi(ad_B) H`` by a polynomial accurate on the spectrum of ``ad_B``, with one product per degree."""
    coefficients = _coefficients(radius, torch.finfo(B.dtype).eps)
    K, scale = H, coefficients[-1]
    # new memory at every degree would cost more than the sums; but a batch of gradients cannot be written in place,
    # and neither can a recorded graph while gradients are recorded
    fresh = batched(H) or (not torch.compiler.is_compiling() and has_dispatch_mode())
    one, other = (None, None) if fresh else (torch.empty_like(H), torch.empty_like(H))
    for c in reversed(coefficients[:-1]):
        # c H + [B, K], since [B, K] = BK - (BK)^H and H = H/2 - (H/2)^H for skew-Hermitian B, K, H
        half = multiply_add(H, B, K, beta=0.5 * c, alpha=scale, out=one)
        K, scale = torch.sub(half, half.mH, out=other), 1.0
    return K


@constant_result
def _coefficients(radius: float, eps: float) -> tuple[float, ...]:
    return _phi_polynomial(exponent(radius), eps)


@functools.cache
def _phi_polynomial(step: int, eps: float) -> tuple[float, ...]:
    r"""Return coefficients of a polynomial near ``phi`` for imaginary arguments up to twice ``2^(step/8)``.

    The Chebyshev series of :math:`\varphi(iy) = \frac{\sin y}{y} + i\frac{1 - \cos y}{y}` has a remainder of about
    :math:`2 r^{d+1} / (d+2)!` at degree d. That of the Taylor polynomial is :math:`(2r)^{d+1} / (d+2)!`.
    """
    radius, degree = 2.0 ** (step / 8), 1
    while radius ** (degree + 1) / math.factorial(degree + 2) > eps:  # half the remainder, below rounding of products
        degree += 1
    return on_imaginary_axis(lambda n: 1 / math.factorial(n + 1), 2 * radius, degree)
