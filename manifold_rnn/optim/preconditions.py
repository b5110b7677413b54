"""What a step asks before it begins: points on their manifolds, optimizer state of their own, finite gradients."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .._torch import norms_of
from ..errors import NonFiniteError, OptimizerError, UnsupportedError
from ..manifolds import Manifold

LOOK_EVERY = 100  # steps between two looks at the numbers of weights that nothing seems to have touched
REPAIRED = 5e-2  # the defect that two corrections of rounding drift bring down to rounding in single precision
TOLERATED = 1e-3  # without corrections, that of a weight which single precision has rounded


def repairs(manifold: Manifold, group: Mapping[str, Any]) -> bool:
    """Whether steps bring a weight that is slightly off its manifold back to it."""
    if manifold.retraction is not None and manifold.retraction.self_correcting:
        return True
    every = group.get("polish_every")
    return bool(manifold.polish_every if every is None else every)


def require_own_state(
    p: Tensor, manifold: Manifold | None, state: Mapping[str, Any], same_frame: bool, ambient: Collection[str] = ()
) -> None:
    """Raise unless the moments of a parameter are coordinates of its tangent vectors, or gradients if ``ambient``."""
    shape = tuple(p.shape)
    if manifold is not None:
        expected = manifold.coordinate_shape(shape, p.dtype)
    else:
        expected = (*shape, 2) if p.is_complex() else shape
    moments = {name: tuple(s.shape) for name, s in state.items() if isinstance(s, Tensor) and name != "step"}
    fits = _broadcasts if manifold is not None else operator.eq  # a plain parameter has no moment of a whole matrix
    fit = {name: fits(moment, shape if name in ambient else tuple(expected)) for name, moment in moments.items()}
    if not moments or (same_frame and all(fit.values())):
        return
    name = next((name for name in fit if not fit[name]), next(iter(fit)))
    raise OptimizerError(
        f"The state of a parameter of shape {shape} was gathered in other coordinates, before constrain or release.\n"
        f"Expected {name!r} in the coordinates of {manifold or 'a plain parameter'}, of shape {tuple(expected)}; "
        f"got shape {moments[name]}. Nothing was changed.\n"
        "Build the optimizer after constrain or release, or delete optimizer.state[parameter]."
    )


def _broadcasts(moment: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(moment) == len(expected) and all(m in (1, e) for m, e in zip(moment, expected, strict=True))


def is_like(g: Tensor, p: Tensor) -> bool:
    """Whether a gradient is plain numbers in the form of its parameter, which may have become another since."""
    own = type(g) is Tensor and g.layout is torch.strided  # a subclass may have its numbers elsewhere
    return own and g.dtype is p.dtype and g.shape == p.shape and g.device == p.device


def name_of(p: Tensor, groups: list[dict[str, Any]]) -> str:
    """The name of a parameter in its optimizer, or its place."""
    for i, group in enumerate(groups):
        for j, q in enumerate(group["params"]):
            if q is p:
                return str(group["param_names"][j]) if "param_names" in group else f"number {j} of group {i}"
    return ""


def refused(groups: list[dict[str, Any]], failed: Collection[Tensor]) -> Iterator[tuple[dict[str, Any], Tensor, str]]:
    """The parameters of groups that skip nothing which end a step, those that ``failed`` or have a bad gradient."""
    for group in groups:
        for p in group["params"]:
            if p.grad is None or group["on_nonfinite"] == "skip":
                continue
            if any(p is q for q in failed) if failed else not bool(p.grad.isfinite().all()):
                yield group, p, name_of(p, groups)


def no_result(p: Tensor, name: str, error: NonFiniteError) -> NonFiniteError:
    """What a step without a result on the manifold of a parameter raises."""
    return NonFiniteError(
        f"The step of parameter {name}, shape {tuple(p.shape)}, has no result; nothing was changed.\n{error}"
    )


def bad_gradient(p: Tensor, name: str) -> NonFiniteError:
    """What a step raises where the gradient of a parameter has NaN or infinity."""
    bad = 0 if p.grad is None else int((~p.grad.isfinite()).sum())
    return NonFiniteError(
        f"A step needs finite gradients; nothing has been changed.\n"
        f"Got {bad} of {p.numel()} entries NaN or infinite in parameter {name}, shape {tuple(p.shape)}.\n"
        "Lower the rate, clip the gradient, or pass on_nonfinite='skip'."
    )


def norm_bound(tensors: list[Tensor]) -> float:
    """A bound of the norm of every tensor, which NaN and infinity survive; large numbers may make it infinite."""
    _refuse_sparse(tensors)
    if not tensors:
        return 0.0
    total = torch.linalg.vector_norm(tensors[0])
    if len(tensors) > 1:  # one number to wait for
        if (norms := norms_of(tensors)) is not None:
            return float(norms.sum(dtype=torch.float64))
        single = (torch.linalg.vector_norm(g).to(total.device, torch.float64) for g in tensors[1:])
        total = sum(single, total.double())
    return float(total)


def all_finite(gradients: list[Tensor]) -> Tensor:
    """Whether every entry is finite, as one truth value on the device."""
    _refuse_sparse(gradients)
    gradients = [g for g in gradients if g.numel()]
    if not gradients:
        return torch.ones((), dtype=torch.bool)
    return torch.stack([g.isfinite().all().to(gradients[0].device) for g in gradients]).all()


def _refuse_sparse(gradients: list[Tensor]) -> None:
    if any(g.is_sparse for g in gradients):
        raise UnsupportedError(
            "A Riemannian step takes dense gradients.\nGot a sparse one.\n"
            "Use sparse=False, or geoopt's SparseRiemannianAdam."
        )
