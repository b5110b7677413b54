"""Projection onto the spectral norm ball by clipping singular values, with its own adjoint."""

from typing import Any

import torch
from torch import Tensor

from .._options import is_number
from ..errors import OptionError, ShapeError
from .checks import require_finite
from .norms import normalized
from .precision import applied, full_precision, without_autocast

_SLACK = 16  # roundings by which a singular value at the bound, as of an orthogonal matrix, may exceed it


@full_precision
def clip_singular_values(x: Tensor, bound: float = 1.0) -> Tensor:
    r"""Return the nearest matrix, in the Frobenius norm, whose largest singular value is at most ``bound``.

    .. math:: X = U \operatorname{diag}(\sigma_i) V^H \quad\mapsto\quad U \operatorname{diag}(\min(\sigma_i, b))\, V^H.

    Parameters
    ----------
    x : Tensor, shape (..., n, p)
        A real or complex matrix.
    bound : float
        A positive bound.

    Returns
    -------
    Tensor, shape (..., n, p)

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError, OptionError
        If ``x`` is not a batch of floating point matrices with finite entries, or ``bound`` is not positive.

    Notes
    -----
    Costs one singular value decomposition. The set is convex, so the map is 1-Lipschitz. Its derivative is computed
    from divided differences, so it is finite also where singular values coincide. At ``bound`` itself it is the
    derivative inside of the ball. The second derivative needs distinct singular values. Source: Higham (2008), section
    3.2, for the divided differences.

    Examples
    --------
    >>> y = mr.linalg.clip_singular_values(torch.diag(torch.tensor([3.0, 0.5])))
    >>> assert torch.allclose(y, torch.diag(torch.tensor([1.0, 0.5])))
    """
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise ShapeError(
            "clip_singular_values needs matrices in the last two axes, of at least 1 x 1.\n"
            f"Expected shape (..., n, p), got {tuple(x.shape)}.\nReshape it first."
        )
    if not (is_number(bound) and bound > 0):
        raise OptionError(
            f"The bound of singular values must be a positive number.\nGot {bound!r:.40}.\nUse e.g. bound=1.0."
        )
    require_finite(x, "clip_singular_values")
    if bound > torch.finfo(x.dtype).max:
        return x.clone()
    y: Tensor = applied(_Clip, x.mT, bound).mT if x.shape[-2] < x.shape[-1] else applied(_Clip, x, bound)
    return y


class _Clip(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, bound: float) -> Tensor:
        U, s, Vh, scale = _svd(x)
        s = s * scale.squeeze(-1)
        kept = s.clamp(max=bound)
        clipped = U * kept.unsqueeze(-2) @ Vh  # a difference from x would lose digits where x is large
        return torch.where((s > bound).any(-1)[..., None, None] | s.isnan().any(-1)[..., None, None], clipped, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.bound = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        with without_autocast(x):
            U, s, Vh, scale = _svd(x)
            Y = U.mH @ g @ Vh.mH
            symmetric, skew = 0.5 * (Y + Y.mH), 0.5 * (Y - Y.mH)
            same, opposite, alone = _slopes(s, (ctx.bound / scale).squeeze(-1))
            beyond = g @ Vh.mH - U @ Y  # the component outside of the range of a tall matrix
            return (U @ (same * symmetric + opposite * skew) + beyond * alone.unsqueeze(-2)) @ Vh, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], x: Tensor, bound: float) -> tuple[Tensor, int]:
        y: Tensor = applied(_Clip, x.movedim(in_dims[0], 0), bound)
        return y, 0


def _svd(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the decomposition of ``x`` divided by a power of two, and that power, (..., 1, 1)."""
    finite = torch.where(x.isfinite(), x, 0)  # the factorization would raise; the result becomes NaN instead
    even, scale = normalized(finite)
    U, s, Vh = torch.linalg.svd(even, full_matrices=False)
    return U, s + (x - x).abs().sum((-2, -1))[..., None], Vh, scale


def _slopes(s: Tensor, bound: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return divided differences of the odd function ``clip`` at (s_i, s_j), at (s_i, -s_j) and at (s_i, 0)."""
    high, low = torch.maximum(s[..., :, None], s[..., None, :]), torch.minimum(s[..., :, None], s[..., None, :])
    edge = bound * (1 + _SLACK * torch.finfo(s.dtype).eps)
    alone = torch.where(s <= edge, 1, bound / torch.where(s <= edge, 1, s))
    bound, edge = bound.unsqueeze(-1), edge.unsqueeze(-1)
    inside, outside = high <= edge, low > edge
    least = torch.minimum(low, bound)
    same = (bound - least) / torch.where(inside | outside, 1, high - low)
    same = torch.where(inside, 1, torch.where(outside, 0, same))
    opposite = torch.where(inside, 1, (bound + least) / torch.where(inside, 1, high + low))
    return same, opposite, alone
