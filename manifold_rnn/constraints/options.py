"""The options of `constrain`, which are checked when the object is created."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from torch import Tensor, nn

from .._torch import convolution_groups
from ..errors import OptionError
from .constraint import AnyConstraint, Constraint

Axes = int | Sequence[int]
MatrixDims = tuple[Axes, Axes]
Init = str | Callable[[Tensor], Tensor]
Constraints: TypeAlias = AnyConstraint | Mapping[int, AnyConstraint]


@dataclass(frozen=True)
class Options:
    """The options of `constrain`, documented there."""

    view: str = "update"
    rebase_every: int | None = None
    blocks: int = 1
    which: Sequence[int] | None = None
    matrix_dims: MatrixDims | None = None
    init: Init = "keep"
    on_load: str = "raise"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("view", self.view, ("update", "trivialized")),
            ("on_load", self.on_load, ("raise", "project")),
        ):
            if value not in known:
                raise bad_option(name, f"one of {', '.join(map(repr, known))}", value)
        if not callable(self.init) and self.init not in ("keep", "haar"):
            raise bad_option("init", "'keep', 'haar' or a callable", self.init)
        every = self.rebase_every
        if every is not None and (type(every) is not int or every < 1 or self.view == "update"):
            raise bad_option("rebase_every", "None, or with view='trivialized' a whole number from 1 up", every)

    @property
    def reads_whole_matrices(self) -> bool:
        """Whether each matrix in the last two axes is one block, and all are constrained."""
        return self.blocks == 1 and self.which is None and self.matrix_dims is None

    def for_weight(self, module: nn.Module, name: str, weight: Tensor) -> Options:
        """Return the options with axes counted from the end; a convolution kernel becomes one matrix per group."""
        dims, blocks = self.matrix_dims, self.blocks
        groups = convolution_groups(module)
        if dims is None and groups is not None and weight.ndim > 2:
            dims = (0, tuple(range(1, weight.ndim)))
            blocks = groups if blocks == 1 else blocks
        if dims is None:
            return self
        return replace(self, matrix_dims=_from_the_end(dims, weight.ndim, name), blocks=blocks)


def chosen_view(constraint: Constraints, view: str | None) -> str:
    """Return the view. Default: the only view of a structured constraint, and "update" for manifolds."""
    members = constraint.values() if isinstance(constraint, Mapping) else (constraint,)
    structured = any(isinstance(member, Constraint) for member in members)
    return view if view is not None else "trivialized" if structured else "update"


def _from_the_end(dims: MatrixDims, ndim: int, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    sides = [(side,) if isinstance(side, int) else side for side in dims] if isinstance(dims, Sequence) else []
    named = [k for side in sides for k in (side if isinstance(side, Sequence) and side else (None,))]
    if len(sides) == 2 and all(isinstance(k, int) and -ndim <= k < ndim for k in named):
        rows, columns = (tuple(k if k < 0 else k - ndim for k in side) for side in sides)
        if len({*rows, *columns}) == len(named):
            return rows, columns
    expected = (
        f"a pair (rows, columns) of axes, or of tuples of axes, from {-ndim} to {ndim - 1} of {name!r}, each once"
    )
    raise bad_option("matrix_dims", expected, dims)


def bad_option(name: str, expected: str, received: object) -> OptionError:
    """Return the error for an invalid value of an option of `constrain`."""
    shown = f"a tensor of shape {tuple(received.shape)}" if isinstance(received, Tensor) else repr(received)[:80]
    return OptionError(f"{name} has a value that constrain does not accept.\nExpected {expected}.\nGot {shown}.")
