"""What a step asks of a parameter when it meets it first: a point on its manifold, with optimizer state of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import OptimizerError
from ..manifolds import Manifold


def require_own_state(p: Tensor, manifold: Manifold | None, state: Mapping[str, Any], same_frame: bool) -> None:
    """Raise unless the moments of a parameter are coordinates of its tangent vectors."""
    shape = tuple(p.shape)
    if manifold is not None:
        expected = manifold.coordinate_shape(shape, p.dtype)
    else:
        expected = (*shape, 2) if p.is_complex() else shape
    moments = {name: tuple(s.shape) for name, s in state.items() if isinstance(s, Tensor) and name != "step"}
    fit = {name: _broadcasts(moment, expected) for name, moment in moments.items()}
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
