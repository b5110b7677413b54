"""What a layer asks of a cell."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

State: TypeAlias = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Form:
    r"""What a fast scan needs to know of a cell :math:`h_t = f(W h_{t-1} + V x_t + b)`, with ``y = h``.

    Parameters
    ----------
    activation : "linear", "relu", "tanh" or "modrelu"
        ``f``.
    weight_ih : Tensor, shape (n, m), optional
        ``V``; without it and ``b`` the inputs of the scan are added as they are.
    bias : Tensor, shape (n,), optional
        ``b``.
    threshold : Tensor, shape (n,), real, optional
        The bias of modReLU.

    Examples
    --------
    >>> cell = mr.nn.cells.Elman("relu", bias=False).bind({"weight_ih": torch.ones(1, 1)})
    >>> assert cell.form().activation == "relu" and cell.form().bias is None
    """

    activation: str
    weight_ih: Tensor | None = None
    bias: Tensor | None = None
    threshold: Tensor | None = None

    def project(self, x: Tensor) -> Tensor:
        """Return ``V x + b`` for inputs (..., m), or the inputs themselves if there is no ``V``."""
        return x if self.weight_ih is None else F.linear(x, self.weight_ih, self.bias)


@dataclass(frozen=True, eq=False)
class Cell(ABC):
    r"""A recurrence :math:`(y_t, s_t) = \operatorname{step}(u_t, s_{t-1}; W)`, :math:`u = \operatorname{project}(x)`.

    A cell is a value: options, and no tensors. A layer calls `allocate` once for each of its levels and directions and
    owns the weights; at each forward pass it calls `bind` with them, reads the recurrent matrix ``W`` once, and runs
    the bound cell over time. A cell never learns how ``W`` is constrained.

    Parameters
    ----------
    weights : mapping from str to Tensor
        Empty until the cell is bound.

    Notes
    -----
    A subclass is a frozen dataclass with the methods below. ``weight_hh`` is the name of the recurrent matrix, or of
    several, stacked in its rows, which ``gates`` names in their order.

    A state is a tuple of tensors, each with the batch on its first axis, so that rows can be cut off when sequences of
    a packed batch end. Its first part is what a readout of the last step takes.

    Examples
    --------
    >>> cell = mr.nn.cells.Elman("relu")
    >>> assert list(cell.allocate(2, 3)) == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    """

    gates: ClassVar[tuple[str, ...]] = ("h",)
    is_complex: ClassVar[bool | None] = None  # None where weights may be real or complex

    weights: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True, repr=False)

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
        """Return the weights by name, not yet filled."""

    @abstractmethod
    def reset(self) -> None:
        """Fill the bound weights in place with their usual starting values."""

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """Map inputs (..., m) of all time steps at once to what `step` takes, (..., any)."""

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """Return the state before the first step."""

    @abstractmethod
    def step(self, u: Tensor, state: State, W: Tensor) -> tuple[Tensor, State]:
        """Advance by one time step: projected input (B, any) and state to output (B, n) and state."""

    def form(self) -> Form | None:
        """Return the bound cell's `Form`, or None if it has another; only the steps of such a cell can be fused."""
        return None

    @property
    def has_own_steps(self) -> bool:
        """Whether a subclass has changed what its `form` was written for, which then no longer says what it does."""
        ancestry = type(self).__mro__
        written = next(i for i, kind in enumerate(ancestry) if "form" in vars(kind))
        changed = {name for kind in ancestry[:written] for name in vars(kind)}
        return not changed.isdisjoint(("project", "step", "prepare", "_activate"))

    def prepare(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Return what a fast scan of the `form` takes as its inputs, and the last state but for its first part."""
        return x.to(self.weights["weight_ih"].dtype), ()
