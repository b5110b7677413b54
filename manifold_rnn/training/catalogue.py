"""Cells, constraints and tasks by the names that settings use, and the options that each takes."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from .. import constraints, manifolds, nn, tasks
from ..errors import OptionError
from ..manifolds import Manifold
from ..nn import cells

_ELSEWHERE = {  # settings of their own, or given by the task
    "input_size",
    "hidden_size",
    "output_size",
    "nonlinearity",
    "retraction",
    "view",
    "rebase_every",
    "weights",
    "offset",
    "generator",
    "device",
    "dtype",
}
_LEFT_OUT = {"Adapted", "Assembled", "Blocks", "Euclidean", "Stiefel"}  # bases, adapters, and tall matrices


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _classes(module: Any, base: type) -> dict[str, type]:
    found = {name: getattr(module, name) for name in module.__all__}
    return {name: kind for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, base)}


def _concrete(kinds: dict[str, type]) -> dict[str, type]:
    return {name: kind for name, kind in kinds.items() if not inspect.isabstract(kind)}


CELLS: dict[str, type[cells.Cell]] = {
    name.lower(): kind for name, kind in sorted(_concrete(_classes(cells, cells.Cell)).items())
}
TASKS: dict[str, type[tasks.Task]] = {_snake(name): getattr(tasks, name) for name in tasks.available()}
CONSTRAINTS: dict[str, type] = {
    _snake(name): kind
    for name, kind in sorted(
        (_concrete(_classes(manifolds, Manifold)) | _concrete(_classes(constraints, constraints.Constraint))).items()
    )
    if name not in _LEFT_OUT
}
STARTS: dict[str, Callable[..., Any]] = {name.rstrip("_"): getattr(nn.init, name) for name in nn.init.__all__}


def options_of(build: Callable[..., Any]) -> list[str]:
    """Return the names of the options that a builder or a class takes in an ``options`` mapping.

    Examples
    --------
    >>> from manifold_rnn.training.catalogue import CONSTRAINTS, options_of
    >>> assert options_of(mr.zoo.scornn) == ["negatives"] and options_of(CONSTRAINTS["contraction"]) == ["bound"]
    """
    return [name for name in inspect.signature(build).parameters if name not in _ELSEWHERE]


def takes(build: Callable[..., Any], option: str) -> bool:
    """Return whether a builder or a class has an option of this name."""
    return option in inspect.signature(build).parameters


def require_options(key: str, build: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise `OptionError`, with the right names, unless ``build`` takes all of the options."""
    known = options_of(build)
    for name in options:
        if name not in known:
            right = ", ".join(known) or "no options"
            raise OptionError(f"{key} of {build.__name__} takes {right}. Got {name!r}.")
