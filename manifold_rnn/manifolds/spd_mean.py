"""The Karcher mean of positive definite matrices in the affine-invariant metric."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import OffManifoldError, OptionError, ShapeError
from ..linalg.checks import require_finite
from ..linalg.expm import expm
from ..linalg.hermitian import log_gram
from .spd_metrics import Affine

_STEPS = 500
_DONE = 1e-14  # norm of the gradient relative to the largest distance from a point


def require_weights(points: Tensor, weights: Tensor | None) -> Tensor:
    """Return the weights in double precision, divided by their sum; raises unless they are valid."""
    if points.ndim < 3 or points.shape[-3] < 1:
        raise ShapeError(
            f"The mean of SPD needs an axis of points.\nExpected shape (..., k, n, n), got "
            f"{tuple(points.shape)}.\nStack the points."
        )
    if weights is None:
        return torch.full(points.shape[:-2], 1 / points.shape[-3], dtype=torch.float64, device=points.device)
    axes = zip(weights.shape[-2::-1], points.shape[-4::-1], strict=False)
    fits = weights.shape[-1:] == points.shape[-3:-2] and all(a == b or 1 in (a, b) for a, b in axes)
    if not fits or weights.is_complex():
        raise ShapeError(
            f"The mean needs one real weight for each point.\nExpected shape (..., {points.shape[-3]}) whose "
            f"batch axes broadcast with {tuple(points.shape[:-3])}, got "
            f"{tuple(weights.shape)} of {weights.dtype}.\nLeave them out for equal weights."
        )
    require_finite(weights, "weights of the mean")
    total = weights.to(torch.float64).sum(-1, keepdim=True)
    if bool((weights < 0).any()) or not bool((total > 0).all()):
        raise OptionError(
            f"Weights of a mean must be at least 0, and not all 0.\nGot a smallest weight {float(weights.min()):.3g} "
            f"and a smallest sum {float(total.min()):.3g}.\nClip them."
        )
    return weights.to(torch.float64) / total


@torch.no_grad()
def karcher_mean(metric: Affine, factors: Tensor, shares: Tensor) -> Tensor:
    r"""Return a factor of the mean of points with Cholesky factors (..., k, n, n) and normalized weights (..., k).

    .. math:: x \leftarrow \exp_x\Bigl(\theta \sum_k w_k \log_x p_k\Bigr), \qquad
        \theta = \frac{2}{1 + \sum_k w_k \tfrac{\delta_k}{2} \coth \tfrac{\delta_k}{2}}

    Here :math:`\delta_k` is the spread of the eigenvalues of :math:`\log_x p_k`. The eigenvalues of the Hessian are
    between 1 and the second term of the denominator, so this step size is optimal (Bini and Iannazzo 2013).
    """
    x = torch.linalg.cholesky((shares[..., None, None] * (factors @ factors.mH)).sum(-3))
    before = torch.full(x.shape[:-2], torch.inf, dtype=torch.float64, device=x.device)
    for _ in range(_STEPS):
        K = torch.linalg.solve_triangular(x.unsqueeze(-3), factors, upper=False)
        logs = log_gram(K)
        gradient = (shares[..., None, None] * logs).sum(-3)
        size, far = torch.linalg.matrix_norm(gradient), torch.linalg.matrix_norm(logs).amax(-1)
        if bool(((size <= _DONE * far) | ((size >= before) & (size <= 1e-9 * (1 + far)))).all()):
            return x
        before = size
        values = torch.linalg.svdvals(K)
        half = values[..., 0].log() - values[..., -1].log()  # half of the spread of the logarithms of K K^H
        bend = torch.where(half > 1e-4, half / torch.tanh(half.clamp(min=1e-4)), 1 + half.square() / 3)
        step = 2 / (1 + (shares * bend).sum(-1))
        moved = expm(0.5 * step[..., None, None] * gradient)
        x = torch.linalg.qr((x @ moved).mH).R.mH  # a lower triangular factor of the same point
        x = x * x.diagonal(dim1=-2, dim2=-1).sgn().conj().unsqueeze(-2)
    raise OffManifoldError(
        f"The iteration for the mean did not converge in {_STEPS} steps.\nExpected a gradient at rounding error, got "
        f"{float(size.max()):.1e}.\nThe points are too ill-conditioned; use metric='log-cholesky'."
    )
