"""Checks whether a weight is on its manifold when it is loaded, assigned or constrained."""

import torch
from torch import Tensor

from ..errors import OffManifoldError
from ..linalg import expm_skew, skew
from ..linalg.checks import require_finite
from ..manifolds import Manifold
from .parametrization import NOT_LOADED


def tolerance(dtype: torch.dtype, n: int) -> float:
    """Return the largest accepted defect. It is far above rounding drift and far below that of a wrong weight."""
    converted = 2e-5  # a float64 weight may have been rounded to float32 before
    return float(max(3 * torch.finfo(dtype).eps ** 0.5, converted) * max(1.0, n / 128))


def rounding(dtype: torch.dtype, n: int) -> float:
    """Return the largest defect that correct rounding leaves. Projecting again below it would only add noise."""
    eps = torch.finfo(dtype).eps
    return float(min(80 * eps, eps**0.5) * max(1.0, n / 128))  # in bfloat16, 80 eps exceed half a length


def largest_defect(manifold: Manifold, x: Tensor) -> float:
    """Return the largest defect in a batch, or 0 for an empty batch."""
    defect = manifold.defect(x.detach())
    return float(defect.max()) if defect.numel() else 0.0


def widened(weight: Tensor) -> Tensor:
    """Return a weight in double precision. In single precision, rounding errors would be as large as the defect."""
    return weight.detach().to(torch.complex128 if weight.is_complex() else torch.float64)


@torch.no_grad()
def measured_defect(manifold: Manifold, weight: Tensor) -> Tensor:
    """Return the largest defect of a weight, measured in double precision."""
    defect = manifold.defect(widened(weight))
    return defect.max() if defect.numel() else defect.new_zeros(())


@torch.no_grad()
def projected(manifold: Manifold, x: Tensor) -> Tensor:
    """Return ``x`` itself if it is on the manifold up to rounding error, otherwise its projection."""
    if x.is_meta or largest_defect(manifold, x) <= rounding(x.dtype, manifold.width(tuple(x.shape))):
        return x
    y: Tensor = manifold.projx(x)
    return y


@torch.no_grad()
def widened_point(manifold: Manifold, x: Tensor, before: torch.dtype) -> Tensor:
    """Return a point converted from the dtype ``before``, projected if its new dtype has more digits."""
    if x.is_meta or torch.finfo(x.dtype).eps >= torch.finfo(before).eps or not bool(x.isfinite().all()):
        return x
    return projected(manifold, x)


@torch.no_grad()
def require_member(manifold: Manifold, value: Tensor, like: Tensor, name: str, *, project: bool = False) -> Tensor:
    """Return ``value`` if it is on the manifold. Otherwise return its projection if ``project``, or raise.

    A value that is no tensor of the right shape is returned unchanged, because torch reports it.
    """
    if not isinstance(value, Tensor) or value.shape != like.shape or value.is_meta or not value.numel():
        return value
    require_finite(value, name, NOT_LOADED)
    x, n = value.to(like.dtype), manifold.width(tuple(value.shape))
    coarser = max(value.dtype, like.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    defect, bound = largest_defect(manifold, x), tolerance(coarser, n)
    if defect <= rounding(like.dtype, n):
        return value
    held = precision_held(value)
    if defect > bound:  # rounding to half precision, or an ill-conditioned eigenvalue, may exceed the bound
        bound = max(bound, 2 * held * n**0.5 if held > torch.finfo(coarser).eps else 0.0)
        bound += _from_rounding(manifold, x, coarser)
    if defect <= bound and held <= torch.finfo(like.dtype).eps:
        return value
    if defect <= bound or project:
        y: Tensor = manifold.projx(x)
        return y
    raise OffManifoldError(
        f"{name} must be a point on {manifold}.\nExpected a defect of at most {bound:.1e}, got {defect:.3g}.\n"
        "Nothing in its module was changed. Load the weight of a constrained model, or pass "
        'on_load="project" to constrain.'
    )


def precision_held(value: Tensor) -> float:
    """Return the rounding unit of the dtype, or that of a half precision that represents every entry exactly."""
    real = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(real.to(dtype).to(real.dtype), real):
            return float(torch.finfo(dtype).eps)
    return float(torch.finfo(value.dtype).eps)


@torch.no_grad()
def require_on_manifold(manifold: Manifold, x: Tensor, name: str, *, least: float = 0.0) -> None:
    """Raise if a weight that an optimizer is about to move is off its manifold.

    ``least`` is the smallest accepted bound of the defect, for matrices of up to 128 columns.
    """
    if x.is_meta or not x.numel():
        return
    require_finite(x, f"the weight {name}", "Nothing was changed. Find what wrote to it, or load a checkpoint.")
    n = manifold.width(tuple(x.shape))
    defect = largest_defect(manifold, x)
    bound = max(tolerance(x.dtype, n), least * max(1.0, n / 128)) * max(1.0, float(x.abs().max()))
    if defect > bound:
        bound += _from_rounding(manifold, x, x.dtype)
    require_near(f"the weight {name}", defect, bound, manifold)


def require_near(name: str, defect: float, bound: float, manifold: Manifold) -> None:
    """Raise unless the defect of a weight is at most ``bound``."""
    if not defect <= bound:  # NaN included
        raise OffManifoldError(
            f"{name[0].upper()}{name[1:]} is off its manifold {manifold}: it was overwritten after constrain.\n"
            f"Expected a defect of at most {bound:.1e}, got {defect:.3g}. Nothing was changed.\n"
            "Pass init= to constrain instead of overwriting it, or write manifold.projx(weight) to it."
        )


def _from_rounding(manifold: Manifold, x: Tensor, dtype: torch.dtype) -> float:
    """Return how much rounding the entries of ``x`` changes the defect at an ill-conditioned eigenvalue."""
    return min(0.1, torch.finfo(dtype).eps * manifold.sensitivity(x))


def require_reached(what: object, computed: Tensor, weight: Tensor, bound: float | None = None) -> None:
    """Raise unless a constraint computes the assigned weight, up to rounding error or a bound."""
    if bound is None:
        eps = max(torch.finfo(x.dtype).eps for x in (computed, weight))
        bound = 3 * eps**0.5 * (1 + float(torch.linalg.vector_norm(weight)))
    error = float(torch.linalg.vector_norm(computed - weight))
    if not error <= bound:
        raise OffManifoldError(
            f"{what} cannot represent this weight.\n"
            f"Expected a distance of at most {bound:.1e} to the nearest weight that it represents, got {error:.3g}.\n"
            "Nothing was changed. Assign a weight of this form, or use another constraint."
        )


def small_rotation(like: Tensor) -> Tensor:
    """Return a fixed rotation that moves eigenvalues away from -1, which some maps do not reach."""
    n = like.shape[-1]
    draw = torch.randn(n, n, dtype=like.dtype.to_real(), generator=torch.Generator().manual_seed(0))
    return expm_skew(skew(draw.to(like)) * (0.5 / n**0.5))
