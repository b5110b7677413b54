"""The options that all layers share, in one list, and the checks of a layer's sizes."""

import difflib
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, TypedDict, Unpack, get_type_hints

import geoopt

from ..constraints import Constraint
from ..errors import OptionError, ShapeError
from .scan.backends import BackendName, require_backend

ConstraintLike: TypeAlias = geoopt.Manifold | Constraint


class LayerOptions(TypedDict, total=False):
    """The keyword options of every layer. `Layer` documents them."""

    constraint: ConstraintLike | Mapping[str, ConstraintLike] | None
    view: Literal["update", "trivialized"]
    train_initial_state: bool
    backend: BackendName
    recompute: bool


_DEFAULTS: LayerOptions = {
    "constraint": None,
    "view": "update",
    "train_initial_state": False,
    "backend": "auto",
    "recompute": False,
}


def complete_options(layer: type, options: LayerOptions) -> LayerOptions:
    """Return the options with the defaults of those that are missing; raises `OptionError` if one is unknown."""
    for name in options:
        if name not in _DEFAULTS:
            known = inspect.signature(layer).parameters
            close = difflib.get_close_matches(name, known, n=1)
            raise OptionError(
                f"{layer.__name__} has no option {name!r}.\nExpected some of {', '.join(known)}; got {name!r}.\n"
                + (f"Did you mean {close[0]!r}?" if close else "Leave it out.")
            )
    completed: LayerOptions = {**_DEFAULTS, **options}
    require_backend(completed["backend"])
    return completed


def full_signature(init: Callable[..., None]) -> inspect.Signature:
    """Return the signature of a layer's constructor, with each of the `LayerOptions` in the place of ``**options``."""
    _, *parameters = inspect.signature(init).parameters.values()  # without self
    own = [p for p in parameters if p.annotation != Unpack[LayerOptions]]
    if len(own) == len(parameters):
        return inspect.Signature(own)
    hints = get_type_hints(LayerOptions)
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])
        for name, default in _DEFAULTS.items()
    ]
    return inspect.Signature([*own, *shared])


def require_sizes(input_size: int, hidden_size: int, num_layers: int, dropout: float) -> None:
    """Raise unless a layer can have these sizes and this dropout."""
    if min(input_size, hidden_size, num_layers) < 1:
        raise ShapeError(
            "A layer needs positive sizes.\nExpected input_size, hidden_size and num_layers of at least 1, "
            f"got {input_size}, {hidden_size} and {num_layers}.\nChoose positive integers."
        )
    if not 0 <= dropout <= 1:
        raise OptionError(
            f"The value of dropout is not a probability.\nExpected a number in [0, 1], got {dropout}.\n"
            "Choose a number in this range."
        )
    if dropout and num_layers == 1:
        warnings.warn("dropout acts between levels, so it has no effect with num_layers=1", stacklevel=4)


def constraint_by_block(constraint: Any, gates: tuple[str, ...]) -> Any:
    """Return a mapping from the names of gates as one from the numbers of their blocks; one constraint as it is."""
    if not isinstance(constraint, Mapping):
        return constraint
    if unknown := [name for name in constraint if name not in gates]:
        raise OptionError(
            "The mapping of constraint has a key that is no gate of the cell.\n"
            f"Expected some of {', '.join(map(repr, gates))}, got {unknown[0]!r}.\n"
            "Correct the name, or pass one constraint for all gates."
        )
    return {gates.index(name): part for name, part in constraint.items()}
