"""The polar factor by a scaled Newton-Schulz iteration, with its own adjoint."""

import math
from typing import Any

import torch
from torch import Tensor

from .checks import TooFar, require_matrix, require_regular
from .defect import minus_identity
from .lu import inverse as inverse_of
from .lu import solve
from .norms import largest_part, normalized, unit_of
from .precision import applied, double, full_precision, host_max, may_read_device, recorded, without_autocast
from .product import multiply, multiply_add
from .skew import skew

_FAR = 1e2  # norm of X^H X - I above which X is scaled first, and X + U should have been added in double precision
_SMALLEST_SQUARE = 1e-16  # squared singular values below it may have lost digits to underflow
_FIXED_ITERATIONS = 12  # if no number may be read from the device; beyond a condition of about 1000 the result is NaN


@full_precision
def polar(x: Tensor) -> Tensor:
    r"""Unitary polar factor: the nearest matrix with orthonormal columns.

    .. math:: X = W H, \qquad W = X (X^H X)^{-1/2}.

    It is computed by the Newton-Schulz iteration :math:`Y \leftarrow \tfrac{\rho}{2} Y (3I - \rho^2 Y^H Y)`, scaled by
    bounds of the singular values. On a CPU, a matrix of moderate condition far from orthonormal columns is factored by
    the eigenvectors of :math:`X^H X` and one such step. A matrix too ill-conditioned for both is factored by the
    singular value decomposition.

    Parameters
    ----------
    x : Tensor, shape (..., n, p), n >= p
        A real or complex matrix of full column rank.

    Returns
    -------
    Tensor, shape (..., n, p)

    Raises
    ------
    ShapeError, DtypeError
        If ``x`` is not a batch of square or tall floating point matrices.

    Notes
    -----
    Costs two matrix products per iteration. It takes one iteration within 1e-4 of orthonormal columns, and 6 at
    condition number 10. The adjoint solves a Lyapunov equation with ``H``. Source: Bjorck and Bowie (1971); Chen and
    Chow (2014) for the scaling; Kenney and Laub (1991) for the derivative.

    At a singular matrix there is no derivative. A backward pass on a CPU then raises `NonFiniteError`, and on other
    devices it has no correct digit.

    Examples
    --------
    >>> W = mr.linalg.polar(3.0 * torch.eye(3, dtype=torch.float64))
    >>> assert torch.allclose(W, torch.eye(3, dtype=torch.float64))
    """
    require_matrix(x, "polar", tall=True)
    W: Tensor = recorded(_Polar, x, None, False)[0]
    return W


def near_polar(x: Tensor) -> Tensor:
    """Compute `polar`; raises `TooFar` if ``x`` should have been added up in double precision."""
    W: Tensor = recorded(_Polar, x, None, True)[0]
    return W


def with_polar_adjoint(x: Tensor, W: Tensor) -> Tensor:
    """Return ``W``, a factor of ``x = W H`` with Hermitian ``H``, with the derivative of this factorization.

    Unlike that of an SVD, the derivative is finite also if singular values of ``x`` coincide, as on the manifold.
    """
    result: Tensor = applied(_Polar, x, W.detach(), False)[0]
    return result


@full_precision
def polish(x: Tensor) -> Tensor:
    r"""One Newton-Schulz step towards orthonormal columns, to remove rounding drift.

    .. math:: X \leftarrow \tfrac12 X (3I - X^H X), \qquad \|X^H X - I\| = \varepsilon \to \tfrac34\varepsilon^2.

    Parameters
    ----------
    x : Tensor, shape (..., n, p), n >= p
        A matrix with nearly orthonormal columns (defect well below 1). Otherwise use `polar`.

    Returns
    -------
    Tensor, shape (..., n, p)

    Raises
    ------
    ShapeError, DtypeError
        If ``x`` is not a batch of square or tall floating point matrices.

    Examples
    --------
    >>> x = torch.eye(3, dtype=torch.float64) + 1e-6
    >>> assert mr.linalg.defect(mr.linalg.polish(x)) < 1e-10
    """
    require_matrix(x, "polish", tall=True)
    gram = multiply(x.mH, x)
    return multiply_add(x, x, gram, beta=1.5, alpha=-0.5)


_Eigen = tuple[Tensor, Tensor]  # eigenvalues and eigenvectors of H
# W, eigenvalues and eigenvectors of H if they were computed, and the power of two by which X was divided for them
_Factored = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]


class _Polar(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, known: Tensor | None, near: bool) -> _Factored:
        return _factor(x, near) if known is None else (known.clone(), None, None, unit_of(x))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor | None, bool], output: _Factored) -> None:
        ctx.mark_non_differentiable(*(result for result in output[1:] if result is not None))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], *output)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> tuple[Tensor | None, None, None]:
        if g is None:
            return None, None, None
        x, W, w, V, unit = ctx.saved_tensors
        with without_autocast(x):
            x = x if unit is None else x / unit
            H = multiply(W.mH, x)
            H = 0.5 * (H + H.mH)
            if unit is not None and w is None:  # otherwise it is known to be regular
                w, V = torch.linalg.eigh(H.detach())
                require_regular(w, "The polar factor")
            inside = multiply(W, lyapunov(H, 2 * skew(multiply(W.mH, g)), None if w is None else (w, V)))
            if x.shape[-2] != x.shape[-1]:
                inside = inside + solve(H, g - W @ (W.mH @ g), left=False)
            return inside if unit is None else inside / unit, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, int | None, None], x: Tensor, known: Tensor | None, near: bool) -> Any:
        known = known if known is None or in_dims[1] is None else known.movedim(in_dims[1], 0)
        result = applied(_Polar, x.movedim(in_dims[0], 0), known, near)
        return result, tuple(None if part is None else 0 for part in result)


def lyapunov(H: Tensor, C: Tensor, eigen: _Eigen | None = None) -> Tensor:
    r"""Solve :math:`HS + SH = C` for positive definite ``H``; differentiable also where its eigenvalues coincide."""
    S: Tensor = applied(_Lyapunov, H, C, *(eigen or torch.linalg.eigh(H.detach())))
    return S


class _Lyapunov(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(H: Tensor, C: Tensor, w: Tensor, V: Tensor) -> Tensor:
        turned = multiply(multiply(V.mH, C), V) / (w.unsqueeze(-1) + w.unsqueeze(-2))
        return multiply(multiply(V, turned), V.mH)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        H, _, w, V = inputs
        ctx.save_for_backward(H, output, w, V)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None, None]:
        H, S, w, V = ctx.saved_tensors
        with without_autocast(H):
            gC = lyapunov(H, g, (w, V))
            return -(gC @ S.mH + S.mH @ gC), gC, None, None


def _factor(x: Tensor, near: bool) -> _Factored:
    """Return the factor, the eigenvalues and eigenvectors of ``H`` if they were computed, and what divided ``x``."""
    unit: Tensor | None = None
    if may_read_device():
        gram = multiply(x.mH, x)
        largest = host_max(torch.linalg.matrix_norm(minus_identity(gram), keepdim=True))
        if largest <= 0.5:
            return _iterate(x, gram, _iterations(largest, x)), None, None, None
        if not largest <= _FAR:  # NaN included
            if near:
                raise TooFar
            if not math.isfinite(host_max(largest_part(x))):
                return torch.full_like(x, math.nan), None, None, None
            x, gram, unit = _divided(x)
        if x.device.type == "cpu" and (found := _by_eigenvectors(x, gram)) is not None:
            return *found, unit
    if unit is None:
        x, gram, unit = _divided(x)
    return _newton_schulz(x, gram), None, None, unit


def _divided(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``x`` divided by its unit, its Gram matrix, where no square underflows or overflows, and the unit."""
    unit = unit_of(x)
    x = x / unit
    return x, multiply(x.mH, x), unit


def _by_eigenvectors(x: Tensor, gram: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Factor by eigenvectors on a CPU: as fast as a few products, and accurate for a moderate condition number."""
    squares, V = torch.linalg.eigh(gram)
    if not bool((squares[..., 0] > (0.02 * squares[..., -1]).clamp(min=_SMALLEST_SQUARE)).all()):
        return None
    w = squares.sqrt()
    return polish(multiply(multiply(x, V) / w.unsqueeze(-2), V.mH)), w, V


def _newton_schulz(x: Tensor, gram: Tensor) -> Tensor:
    inverse = inverse_of(gram)
    high = torch.linalg.matrix_norm(gram, keepdim=True).sqrt()
    low = torch.linalg.matrix_norm(inverse, keepdim=True).rsqrt()
    ratio = low / high
    if may_read_device() and not bool((ratio > 0.02).all()):  # NaN included
        return _polar_by_svd(x)
    return _scaled(x / high, ratio)


def _iterations(far: float, x: Tensor) -> int:
    """Return the number of steps from a norm ``far`` of ``X^H X - I`` to one at rounding error."""
    count, near = 0, torch.finfo(x.dtype).eps * max(4.0, x.shape[-1] ** 0.5)
    while far > near and count < 12:
        far, count = 0.75 * far * far + 0.25 * far**3, count + 1
    return max(count, 1)


def _iterate(y: Tensor, gram: Tensor, count: int) -> Tensor:
    for k in range(count):
        y = multiply_add(y, y, gram if k == 0 else multiply(y.mH, y), beta=1.5, alpha=-0.5)
    return y


def _scaled(y: Tensor, low: Tensor) -> Tensor:
    """Iterate Newton-Schulz for singular values in [low, 1]. Each step maps both ends to the new lower end."""
    count = 0
    while count < _FIXED_ITERATIONS:
        rho = (3 / (1 + low + low.square())).sqrt()
        y = rho * (1.5 * y - 0.5 * rho.square() * (y @ (y.mH @ y)))
        low = (0.5 * rho * low * (3 - (rho * low).square())).clamp(max=1)
        count += 1
        if may_read_device() and bool((low > 0.9).all()):
            break
    y = _iterate(y, y.mH @ y, _iterations(0.2, y))
    if may_read_device():
        return y
    converged = torch.linalg.matrix_norm(minus_identity(y.mH @ y), keepdim=True) < 1e-2
    return torch.where(converged, y, torch.nan)


def _polar_by_svd(x: Tensor) -> Tensor:
    """Compute the polar factor by the singular value decomposition, in double precision to keep digits."""
    U, _, Vh = torch.linalg.svd(normalized(double(x))[0], full_matrices=False)
    return (U @ Vh).to(x.dtype)
