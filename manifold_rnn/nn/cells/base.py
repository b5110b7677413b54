"""The contract of a cell: its weights, its projection of the inputs, and one step of its recurrence."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self, TypeAlias

import torch
from torch import Tensor

from ...linalg.checks import require_finite
from .elman_form import ElmanForm
from .gated_form import GatedForm
from .leaky_form import LeakyForm

State: TypeAlias = tuple[Tensor, ...]
AllSteps: TypeAlias = Callable[[Tensor, State], tuple[Tensor, State]]

FILLED_BY_BIND = "filled by bind"  # metadata of a field that is not an option of the constructor


@dataclass(frozen=True, eq=False)
class Cell(ABC):
    r"""A recurrence :math:`(y_t, s_t) = \operatorname{step}(u_t, s_{t-1}; W)`, :math:`u = \operatorname{project}(x)`.

    A cell is an immutable value with options, but without tensors. A layer calls `allocate` once for each of its levels
    and directions, and owns the weights. In each forward pass the layer binds the cell to the weights, reads the
    recurrent matrix ``W`` once, and runs the bound cell over time. A cell does not depend on the constraint of ``W``.

    Parameters
    ----------
    weights : mapping from str to Tensor
        Weights of the bound cell. Empty until the cell is bound.

    Attributes
    ----------
    gates : tuple of str
        Names of the matrices stacked in the rows of ``weight_hh``, in order. Empty if the input determines the
        matrices.
    complex_by_default : bool
        Whether the published network of this cell has complex weights.
    torch_kernel : str, optional
        Name of the torch function, such as "lstm", that runs this cell over time with the same weights.
    largest_input : float
        Largest norm of projected inputs for which states stay bounded, if the recurrent matrix has norm 1. It is finite
        for cells whose steps multiply states with each other. Larger inputs may overflow after a few steps, and then a
        layer raises an error.
    step_methods : frozenset of str
        Names of the methods that define the recurrence. See `steps_match`.

    Notes
    -----
    To add a cell, write a frozen dataclass with the abstract methods below in a separate file, and export it from
    `manifold_rnn.nn.cells`. ``weight_hh`` is the name of the recurrent matrix. Several matrices are stacked in its
    rows.

    A state is a tuple of tensors with the batch on the first axis. So rows can be dropped when sequences of a packed
    batch end. The first part of the state is the input of a readout of the last step.

    Examples
    --------
    >>> cell = mr.nn.cells.Elman("relu")
    >>> assert list(cell.allocate(2, 3)) == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    """

    gates: ClassVar[tuple[str, ...]] = ("h",)
    complex_by_default: ClassVar[bool] = False
    torch_kernel: ClassVar[str | None] = None
    largest_input: ClassVar[float] = math.inf
    step_methods: ClassVar[frozenset[str]] = frozenset({"project", "step", "elman_inputs", "gated_inputs"})

    weights: Mapping[str, Tensor] = field(
        default_factory=dict, kw_only=True, repr=False, metadata={FILLED_BY_BIND: True}
    )

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """Return the names of the options of the constructor."""
        return tuple(f.name for f in dataclasses.fields(cls) if FILLED_BY_BIND not in f.metadata)

    def bind(self, weights: Mapping[str, Tensor]) -> Self:
        """Return the same cell with its weights."""
        return dataclasses.replace(self, weights=weights)

    @abstractmethod
    def allocate(
        self,
        input_size: int,
        hidden_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Return the weights by name, uninitialized."""

    @abstractmethod
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Initialize the bound weights in place."""

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """Map inputs (..., m) of all time steps at once to the inputs of `step`, (..., any)."""

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """Return the state before the first step."""

    @abstractmethod
    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Advance by one time step: projected input (B, any) and state to output (B, n) and state."""

    def elman_form(self) -> ElmanForm | None:
        """Return the bound cell's `ElmanForm`, or None if it has another recurrence."""
        return None

    def leaky_form(self) -> LeakyForm | None:
        """Return the bound cell's `LeakyForm`, or None if it has another recurrence."""
        return None

    def gated_form(self, W: Tensor) -> GatedForm | None:
        """Return the bound cell's `GatedForm` with the recurrent matrix, or None if it has no hand-written steps."""
        return None

    def gated_inputs(self, form: GatedForm, x: Tensor, state: State) -> tuple[GatedForm, Tensor, State, State]:
        """Return the arguments of a scan: the form, inputs, initial state, and the last state of other parts."""
        V = self.weights["weight_ih"]
        return form, x if V.is_complex() else x.to(V.dtype), state, ()

    def all_steps(self) -> AllSteps | None:
        """Return a function that runs all steps at once, or None if the bound cell can only run them one by one.

        It maps unprojected inputs (T, B, m) and a state to outputs (T, B, n) and the last state.
        """
        return None

    def elman_inputs(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the inputs of a scan of the `elman_form`, and the last state without its first part."""
        return x.to(self.weights["weight_ih"].dtype), ()

    def require_states(self, y: Tensor) -> None:
        """Raise `NonFiniteError` if the outputs of a cell with a `largest_input` overflowed."""
        if self.largest_input < math.inf:
            require_finite(
                y,
                f"A layer of {type(self).__name__}, whose steps multiply states with each other,",
                f"Scale the inputs so that W_ih x + b has norms of at most {self.largest_input:g} / |W_hh|, or use "
                "fewer steps.",
            )

    def separates_units(self) -> bool:
        """Return whether units can be removed, because they interact only through columns of ``weight_hh``."""
        return False

    def steps_match(self, fact: str) -> bool:
        """Return whether the class that defines the attribute ``fact`` also defines the steps.

        A subclass that overrides one of the `step_methods` has another recurrence. Then an inherited ``elman_form`` or
        ``torch_kernel`` no longer describes it.
        """
        ancestry = type(self).__mro__
        stated = next(i for i, kind in enumerate(ancestry) if fact in vars(kind))
        overridden = {name for kind in ancestry[:stated] for name in vars(kind)}
        return overridden.isdisjoint(self.step_methods)
