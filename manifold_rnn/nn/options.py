"""The options that all layers share, in one list, and the checks of a layer's sizes."""

import warnings
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from .._options import require_known
from ..constraints.constraint import AnyConstraint
from ..errors import OptionError, ShapeError
from .cells import Cell
from .scan.backends import BackendName, require_backend


class LayerOptions(TypedDict, total=False):
    """The keyword options of every layer. `Layer` documents them."""

    constraint: AnyConstraint | Mapping[str, AnyConstraint] | None
    view: Literal["update", "trivialized"] | None
    rebase_every: int | None
    train_initial_state: bool
    backend: BackendName
    recompute: bool


DEFAULTS: LayerOptions = {
    "constraint": None,
    "view": None,
    "rebase_every": None,
    "train_initial_state": False,
    "backend": "auto",
    "recompute": False,
}


def complete_options(layer: type, options: LayerOptions) -> LayerOptions:
    """Return the options, with defaults for missing ones. Raises `OptionError` if one is unknown."""
    require_known(layer, LayerOptions, options)
    completed: LayerOptions = {**DEFAULTS, **options}
    require_backend(completed["backend"])
    if completed["constraint"] is None and completed["rebase_every"] is not None:
        raise OptionError(
            "rebase_every needs a constraint, because it moves the base point of a constrained weight.\n"
            f"Expected None without a constraint, got {completed['rebase_every']}.\n"
            "Pass a constraint, or leave this out."
        )
    return completed


def require_arguments(cell: Cell, input_size: int, hidden_size: int, num_layers: int, dropout: float) -> None:
    """Raise unless a layer can have this cell, these sizes and this dropout."""
    if not isinstance(cell, Cell):
        raise OptionError(
            f"The cell of a layer is an object of a class of manifold_rnn.nn.cells.\n"
            f"Expected a cell such as Elman(), got {cell!r:.80}.\nCall the class."
        )
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


def require_recurrent_matrix(cell: Cell) -> None:
    """Raise `OptionError` unless the cell has a recurrent matrix that can be constrained."""
    if not cell.gates:
        raise OptionError(
            "The cell has no recurrent matrix, because its input determines the matrix of each step.\n"
            f"Expected no constraint for {type(cell).__name__}, got one.\n"
            "Leave the constraint out, or choose another cell, such as Elman."
        )


def constraint_by_block(constraint: Any, gates: tuple[str, ...]) -> Any:
    """Convert a mapping with names of gates to one with block numbers. A single constraint is unchanged."""
    if not isinstance(constraint, Mapping):
        return constraint
    if unknown := [name for name in constraint if name not in gates]:
        raise OptionError(
            "The mapping of constraint has a key that is not a gate of the cell.\n"
            f"Expected some of {', '.join(map(repr, gates))}, got {unknown[0]!r}.\n"
            "Correct the name, or pass one constraint for all gates."
        )
    return {gates.index(name): part for name, part in constraint.items()}
