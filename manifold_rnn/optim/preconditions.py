"""Checks before a step: points on their manifolds, matching optimizer states, finite gradients."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .._torch import norms_of
from ..errors import NonFiniteError, OptimizerError, UnsupportedError
from ..manifolds import Manifold
from .options import StateKinds

LOOK_EVERY = 100  # steps between two checks of weights that nothing else seems to have written
REPAIRED = 5e-2  # the defect that two corrections reduce to rounding error in single precision
TOLERATED = 1e-3  # the accepted defect without corrections, of a weight rounded to single precision


def repairs(manifold: Manifold, group: Mapping[str, Any]) -> bool:
    """Return whether steps return a weight that is slightly off its manifold to it."""
    if manifold.retraction is not None and manifold.retraction.self_correcting:
        return True
    every = group.get("polish_every")
    return bool(manifold.polish_every if every is None else every)


def square_kind(group: Mapping[str, Any]) -> str:
    """Return how the options of a group define the second moment: "elementwise", "matrix", or "angle" per entry."""
    return "angle" if group.get("scale") == "angle" else str(group.get("second_moment", "elementwise"))


def require_own_state(
    p: Tensor, manifold: Manifold | None, state: Mapping[str, Any], kinds: StateKinds, how: str, *, same_frame: bool
) -> None:
    """Raise unless the moments of a parameter have the shapes of its coordinates, gradients and second moments."""
    moments = {name: tuple(s.shape) for name, s in state.items() if isinstance(s, Tensor) and name != "step"}
    if not moments:
        return
    shape = tuple(p.shape)
    if manifold is not None:
        coordinates = tuple(manifold.coordinate_shape(shape, p.dtype))
    else:
        coordinates = (*shape, 2) if p.is_complex() else shape
    expected = {name: shape if name in kinds.ambient else coordinates for name in moments}
    # plain parameters have no moments per matrix; an optimizer of another author may have some on manifolds
    fits = operator.eq if manifold is None else _broadcasts
    strange = [name for name in moments if not fits(moments[name], expected[name])]
    if manifold is None:  # a gradient may be kept as complex numbers or as pairs of reals
        strange = [name for name in strange if not (name in kinds.ambient and moments[name] == coordinates)]
    if strange or not same_frame:
        name, cause = (strange or list(moments))[0], "in other coordinates, before constrain or release"
        advice = "Build the optimizer after constrain or release"
    else:
        squares = [name for name in kinds.squares if name in moments]
        expected |= dict.fromkeys(squares, _square_shape(p, manifold, coordinates, how) if squares else ())
        strange = [name for name in squares if moments[name] != expected[name]]
        if not strange:
            return
        name, cause = strange[0], "on another manifold, or with another scale or second_moment"
        advice = "Restore the option"
    raise OptimizerError(
        f"The state of a parameter of shape {shape} was collected {cause}.\n"
        f"Expected {name!r} in the coordinates of {manifold or 'a plain parameter'}, of shape {expected[name]}; "
        f"got shape {moments[name]}. Nothing was changed.\n"
        f"{advice}, or delete optimizer.state[parameter]."
    )


def _square_shape(p: Tensor, manifold: Manifold | None, coordinates: tuple[int, ...], how: str) -> tuple[int, ...]:
    if manifold is None or how == "angle":
        return coordinates
    x = p.detach().unsqueeze(0)
    return tuple(manifold.square_coordinates(x, x.real.new_zeros((1, *coordinates)), how).shape[1:])


def _broadcasts(moment: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(moment) == len(expected) and all(m in (1, e) for m, e in zip(moment, expected, strict=True))


def is_like(g: Tensor, p: Tensor) -> bool:
    """Return whether a gradient has the form of its parameter, which may have been replaced since."""
    own = type(g) is Tensor and g.layout is torch.strided  # a subclass may store its numbers elsewhere
    return own and g.dtype is p.dtype and g.shape == p.shape and g.device == p.device


def name_of(p: Tensor, groups: list[dict[str, Any]]) -> str:
    """Return the name of a parameter in its optimizer, or its position."""
    for i, group in enumerate(groups):
        for j, q in enumerate(group["params"]):
            if q is p:
                return str(group["param_names"][j]) if "param_names" in group else f"number {j} of group {i}"
    return ""


def refused(groups: list[dict[str, Any]], failed: Collection[Tensor]) -> Iterator[tuple[dict[str, Any], Tensor, str]]:
    """Yield the parameters that ``failed`` or have a bad gradient, from groups that do not skip such steps."""
    for group in groups:
        for p in group["params"]:
            if p.grad is None or group["on_nonfinite"] == "skip":
                continue
            if any(p is q for q in failed) if failed else not bool(p.grad.isfinite().all()):
                yield group, p, name_of(p, groups)


def no_result(p: Tensor, name: str, error: NonFiniteError) -> NonFiniteError:
    """Return the error for a step without a result on the manifold of a parameter."""
    return NonFiniteError(
        f"The step of parameter {name}, shape {tuple(p.shape)}, has no result; nothing was changed.\n{error}"
    )


def bad_gradient(p: Tensor, name: str) -> NonFiniteError:
    """Return the error for a gradient with NaN or infinity."""
    bad = 0 if p.grad is None else int((~p.grad.isfinite()).sum())
    return NonFiniteError(
        f"A step needs finite gradients; nothing has been changed.\n"
        f"Got {bad} of {p.numel()} entries NaN or infinite in parameter {name}, shape {tuple(p.shape)}.\n"
        "Lower the learning rate, clip the gradient, or pass on_nonfinite='skip'."
    )


def norm_bound(tensors: list[Tensor]) -> float:
    """Return a bound of the norm of every tensor; NaN and infinity are kept, and large numbers may overflow."""
    _refuse_sparse(tensors)
    if not tensors:
        return 0.0
    total = torch.linalg.vector_norm(tensors[0])
    if len(tensors) > 1:  # so that only one number is read
        if (norms := norms_of(tensors)) is not None:
            return float(norms.sum(dtype=torch.float64))
        single = (torch.linalg.vector_norm(g).to(total.device, torch.float64) for g in tensors[1:])
        total = sum(single, total.double())
    return float(total)


def all_finite(gradients: list[Tensor]) -> Tensor:
    """Return whether every entry is finite, as a tensor on the device."""
    _refuse_sparse(gradients)
    gradients = [g for g in gradients if g.numel()]
    if not gradients:
        return torch.ones((), dtype=torch.bool)
    return torch.stack([g.isfinite().all().to(gradients[0].device) for g in gradients]).all()


def _refuse_sparse(gradients: list[Tensor]) -> None:
    if any(g.is_sparse for g in gradients):
        raise UnsupportedError(
            "A Riemannian step needs dense gradients.\nGot a sparse one.\n"
            "Pass sparse=False to the layer, or use geoopt's SparseRiemannianAdam."
        )
