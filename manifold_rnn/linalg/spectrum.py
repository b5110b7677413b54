"""The spectral radius, with a guarded gradient, and the condition number of the eigenvalue that attains it."""

from typing import Any

import torch
from torch import Tensor

from .._options import is_number
from ..errors import OptionError
from .checks import require_derivative, require_finite, require_matrix
from .lu import inverse_ex, lu_factor, lu_solve
from .norms import unit_of
from .precision import applied, full_precision, may_read_device, recording, without_autocast

_SQUARINGS = {torch.float32: 30, torch.float64: 58}  # makes 2^-k log(condition) smaller than the rounding unit
_WIDE = {torch.float32: torch.float64, torch.complex64: torch.complex128}
_DEFECTIVE = 1e-8  # norm of a normalized square below which a nilpotent part outweighs the eigenvalues
_UNDERFLOW = 1e-150  # norm below which the next square may underflow
_NEGLIGIBLE = 1e-290  # relative to a largest entry of 1; the reciprocal of a smaller pivot overflows
_PARALLEL = 1e-18  # smallest divisor |v^H u|: below it, unit vectors are orthogonal to rounding


@full_precision
def spectral_radius(x: Tensor, *, tol: float | None = None) -> Tensor:
    r"""Largest modulus of an eigenvalue.

    .. math:: \rho(X) = \max_i |\lambda_i| = \lim_k \|X^{2^k}\|^{2^{-k}}, \qquad
        d\rho = \operatorname{Re}\Bigl(\frac{\bar\lambda}{|\lambda|} \frac{v^H\, dX\, u}{v^H u}\Bigr).

    The value is computed by repeated squaring with logarithms. The gradient is computed from the right and left
    eigenvectors of a dominant eigenvalue, :math:`Xu = \lambda u`, :math:`v^H X = \lambda v^H`.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        A real or complex matrix.
    tol : float, optional
        The gradient is replaced where :math:`|v^H u| < \mathrm{tol}\,\|u\|\|v\|`. Default: ten times the square root of
        the rounding unit of the dtype, which a rounded defective matrix does not exceed.

    Returns
    -------
    Tensor, shape (...)
        Real.

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError
        If ``x`` is not a batch of square floating point matrices with finite entries.
    OptionError
        If ``tol`` is not a number of at least 0.

    Notes
    -----
    Both eigenvalues of a conjugate pair give the same gradient. If several moduli are equal, the radius has a kink. The
    gradient of one of the eigenvalues is then returned. It is a subgradient: the true slope in every direction is at
    least as large. If the eigenvalue is nearly defective (``tol``), the radius is not Lipschitz, and the radial
    gradient :math:`\rho X / \|X\|_F^2` is returned. Its slope along ``X`` is correct, and 0 in all other directions. At
    radius 0 the gradient is 0. In all cases :math:`\langle\nabla\rho, X\rangle = \rho`, as for every homogeneous
    function. The second derivative does not exist at a multiple eigenvalue, see `spectral_condition`.

    If a nilpotent part outweighs the eigenvalues, as in a Jordan block, the eigenvalues are computed as well, and the
    smaller value is returned. It is exact for triangular matrices, in any order of rows and columns. For other
    defective matrices the error is that of rounding the entries, about the n-th root of eps. In `fixed_iterations` the
    eigenvalues are not computed, and the value may be larger, or 0 where the powers underflow.

    Costs 30 products in single precision (computed in double) or 58 in double precision. The backward pass costs an
    eigendecomposition, which waits for the device and cannot be captured in a CUDA graph. Power iteration cannot
    replace it, since it does not converge for a complex pair. `spectral_condition` measures how accurate the value is.
    Source: Gelfand (1941) for the limit, Horn and Johnson (2013), theorem 6.3.12, for the derivative.

    Examples
    --------
    >>> x = torch.tensor([[0.5, 10.0], [0.0, 0.4]])
    >>> assert torch.isclose(mr.linalg.spectral_radius(x), torch.tensor(0.5))
    """
    require_matrix(x, "spectral_radius")
    if tol is not None and not (is_number(tol) and tol >= 0):
        raise OptionError(
            f"tol of spectral_radius must be a number of at least 0.\nGot {tol!r:.40}.\nLeave it out for the default."
        )
    require_finite(x, "spectral_radius")
    value: Tensor = applied(_Radius, x, guard(x.dtype) if tol is None else tol)
    return value


@full_precision
def spectral_condition(x: Tensor) -> Tensor:
    r"""Condition number of the eigenvalue that attains the spectral radius.

    .. math:: \kappa = \frac{\|u\|\|v\|}{|v^H u|} \ge 1, \qquad
        |\delta\lambda| \le \kappa \|\delta X\|_2 + O(\|\delta X\|^2).

    Here ``u`` and ``v`` are the right and left eigenvectors. The condition number is 1 for a normal matrix, and large
    if the eigenvalue is nearly defective. Rounding ``x`` then moves the spectral radius by about :math:`\kappa`
    rounding units.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        A real or complex matrix.

    Returns
    -------
    Tensor, shape (...)
        Real. If several moduli are equal, the condition number of one of these eigenvalues.

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError
        If ``x`` is not a batch of square floating point matrices with finite entries.

    Notes
    -----
    Costs one eigendecomposition in double precision. Source: Wilkinson (1965), chapter 2.

    There is no derivative where the eigenvalue is a multiple one. A backward pass on a CPU then raises
    `NonFiniteError`, and on other devices it is NaN.

    Examples
    --------
    >>> x = torch.tensor([[0.5, 10.0], [0.0, 0.4]])
    >>> assert torch.isclose(mr.linalg.spectral_condition(x), torch.tensor(10001.0).sqrt(), rtol=1e-3)
    """
    require_matrix(x, "spectral_condition")
    require_finite(x, "spectral_condition")
    return torch.linalg.matrix_norm(dominant(x)[1])


def dominant(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return a dominant eigenvalue and its projector :math:`u v^H / v^H u`, complex, differentiable to any order."""
    eigenvalue, projector = applied(_Dominant, x)
    return eigenvalue, projector


def guard(dtype: torch.dtype) -> float:
    """Return the default of ``tol``. A rounded 2 x 2 Jordan block has the condition number ``1 / sqrt(eps)``."""
    return float(10 * torch.finfo(dtype).eps ** 0.5)


def radius_slope(x: Tensor, radius: Tensor, tol: float) -> Tensor:
    """Return the gradient of the spectral radius ``radius`` of ``x``, radial if the eigenvalue is nearly defective."""
    scale = unit_of(x)
    unit = x / scale  # its eigenvalues and squares neither underflow nor overflow
    eigenvalue, projector = dominant(unit)
    slope = eigenvalue.sgn()[..., None, None] * projector.mH
    square = torch.linalg.matrix_norm(unit, keepdim=True).square()
    radial = unit * (radius[..., None, None] / scale / torch.where(square > 0, square, 1))
    sound = torch.linalg.matrix_norm(projector) * tol < 1
    return torch.where(sound[..., None, None], slope if x.is_complex() else slope.real, radial)


class _Radius(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, tol: float) -> Tensor:
        value, least = _by_squaring(x)
        if may_read_device() and not x.is_meta and bool((least < _DEFECTIVE).any()):
            # if a nilpotent part outweighs the eigenvalues, rounding errors can only increase either value
            by_eigenvalues = _by_eigenvalues(x)
            smaller = torch.where(_underflows(x, value == 0), by_eigenvalues, torch.minimum(value, by_eigenvalues))
            value = torch.where(least < _DEFECTIVE, smaller, value)
        return value.to(x.real.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.tol = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        x, radius = ctx.saved_tensors
        if _is_plain_zero(g):  # for example, if a weight is inside its disc and is not divided
            return torch.zeros_like(x), None
        with without_autocast(x):
            return g[..., None, None] * radius_slope(x, radius, ctx.tol), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], x: Tensor, tol: float) -> tuple[Tensor, int]:
        value: Tensor = applied(_Radius, x.movedim(in_dims[0], 0), tol)
        return value, 0


def _by_squaring(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return Gelfand's limit in double precision, and the smallest norm of a normalized square on the way.

    Compared with the power of its nilpotent part, the eigenvalue of a Jordan block underflows. The iteration therefore
    stops before the remainder of the eigenvalue underflows. If a power is exactly zero before, the radius is zero,
    unless `_underflows`.
    """
    power = x.to(_WIDE.get(x.dtype, x.dtype))
    scale = unit_of(power)
    power = power / scale
    logarithm = power.real.new_zeros(power.shape[:-2])
    least, ended = torch.ones_like(logarithm), torch.zeros_like(logarithm, dtype=torch.bool)
    for k in range(_SQUARINGS[x.real.dtype] + 1):
        size = power.abs().amax((-2, -1))
        if k:
            least = torch.minimum(least, torch.where(ended, least, size))
            ended = ended | ((least < _UNDERFLOW) & (least > 0))
        logarithm = logarithm + torch.where(ended, 0, size.log() * 0.5**k)  # -inf at the zero matrix
        power = power / torch.where(size > 0, size, 1)[..., None, None]
        power = power @ power
    return logarithm.exp() * scale[..., 0, 0], least


def _underflows(x: Tensor, zero: Tensor) -> Tensor:
    """Return for each matrix whether it has ``zero``, and products of tiny numbers may have made its power zero."""
    power = torch.where(zero[..., None, None], x.to(_WIDE.get(x.dtype, x.dtype)) / unit_of(x), 0)
    found = torch.zeros_like(zero)
    for _ in range(_SQUARINGS[x.real.dtype] + 1):
        if not bool(power.any()):
            break
        parts = (torch.view_as_real(power) if power.is_complex() else power.unsqueeze(-1)).abs()
        found = found | ((parts > 0) & (parts < _UNDERFLOW)).any(-1).any(-1).any(-1)
        size = parts.amax((-3, -2, -1))
        power = power / torch.where(size > 0, size, 1)[..., None, None]
        power = power @ power
    return found


def _by_eigenvalues(x: Tensor) -> Tensor:
    x = x.to(_WIDE.get(x.dtype, x.dtype))
    scale = unit_of(x)
    return torch.linalg.eigvals(x / scale).abs().amax(-1) * scale[..., 0, 0]


def _is_plain_zero(g: Tensor) -> bool:
    """Return whether a gradient is zero, if this may be checked and nothing differentiates it again."""
    return may_read_device() and not recording() and not bool(g.any())


class _Dominant(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        finite = torch.where(x.isfinite(), x, 0).to(_WIDE.get(x.dtype, x.dtype))
        size = unit_of(finite)
        scaled = finite / size
        scaled = torch.where(scaled.abs() > _NEGLIGIBLE, scaled, 0)
        eigenvalues, vectors = torch.linalg.eig(scaled)
        index = eigenvalues.abs().argmax(-1, keepdim=True)
        top = eigenvalues.gather(-1, index)
        u = vectors.gather(-1, index.unsqueeze(-2).expand(*vectors.shape[:-1], 1))
        u, v = _right_and_left(scaled, top, u)
        overlap = v.mH @ u
        overlap = torch.where(overlap.abs() < _PARALLEL, _PARALLEL, overlap)
        poison = torch.complex((x - x).abs(), torch.zeros_like(x.real)).sum((-2, -1))  # NaN where x is not finite
        value, projector = (top * size[..., 0]).squeeze(-1), u @ v.mH / overlap
        return value.to(poison.dtype) + poison, projector.to(poison.dtype) + poison[..., None, None]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], *output)

    @staticmethod
    def backward(ctx: Any, g_value: Tensor, g_projector: Tensor) -> Tensor:
        x, value, P = ctx.saved_tensors
        with without_autocast(x):
            eye = torch.eye(x.shape[-1], dtype=P.dtype, device=P.device)
            inverse, failed = inverse_ex(value[..., None, None] * eye - x + P)
            require_derivative(failed != 0, "An eigenvector", "where its eigenvalue is a multiple one")
            R = inverse - P  # the reduced resolvent
            g = g_value[..., None, None] * P.mH + R.mH @ g_projector @ P.mH + P.mH @ g_projector @ R.mH
            return g if x.is_complex() else g.real

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        value, projector = applied(_Dominant, x.movedim(in_dims[0], 0))
        return (value, projector), (0, 0)


def _right_and_left(x: Tensor, eigenvalue: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit eigenvectors by inverse iteration: the left one from a right one, then the right one from the left.

    The component of either along the other grows with the condition number. The right one is computed again because
    eigenvalue routines begin with balancing, which can lose it if the entries have very different magnitudes.
    """
    eye = torch.eye(x.shape[-1], dtype=u.dtype, device=u.device)
    LU, pivots = lu_factor((eigenvalue[..., None] * eye - x).mH)
    eps = torch.finfo(u.dtype).eps
    zero = LU.diagonal(dim1=-2, dim2=-1).abs() < eps  # a pivot is 0; the entries of x are at most 1
    LU = LU + torch.where(zero, eps, 0).diag_embed()
    v = _unit(lu_solve(LU, pivots, u))  # one step only: on a Jordan block a second one would diverge
    return _unit(lu_solve(LU, pivots, v, adjoint=True)), v


def _unit(v: Tensor) -> Tensor:
    return v / torch.linalg.vector_norm(v, dim=-2, keepdim=True)
