"""The weights of cells that project their inputs by one affine map."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .base import Cell, State
from .weights import affine, allocate_empty, fill_uniform


@dataclass(frozen=True, eq=False)
class AffineCell(Cell):
    """A cell whose ``weight_hh`` has one block for each gate. ``weight_ih`` consists of blocks too, with biases."""

    bias_names: ClassVar[tuple[str, ...]] = ("bias",)

    bias: bool = field(default=True, kw_only=True)

    @property
    def input_blocks(self) -> int:
        """Number of (n, m) blocks in the rows of ``weight_ih``."""
        return 1

    def allocate(
        self,
        input_size: int,
        hidden_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Return ``weight_ih``, ``weight_hh`` and the biases, uninitialized."""
        rows = self.input_blocks * hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, input_size)}
        shapes["weight_hh"] = (len(self.gates) * hidden_size, hidden_size)
        shapes |= {name: (rows,) for name in self.bias_names if self.bias}
        return allocate_empty(shapes, device=device, dtype=dtype)

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Initialize the weights uniformly."""
        fill_uniform(self.weights, self.weights["weight_hh"].shape[-1] ** -0.5, generator)

    def project(self, x: Tensor) -> Tensor:
        """Return ``V x + b``, the blocks of ``V`` one after the other on the last axis."""
        return affine(x, self.weights["weight_ih"], self.additive_bias())

    def additive_bias(self) -> Tensor | None:
        """Return the sum of the biases, or None."""
        biases = [self.weights[name] for name in self.bias_names if self.bias]
        return sum(biases[1:], biases[0]) if biases else None

    def initial_state(self, batch: int) -> State:
        """Return ``(0,)``, shape (B, n)."""
        return (self.zeros(batch),)

    def zeros(self, batch: int) -> Tensor:
        """Return zeros of the shape of a state, (B, n)."""
        W = self.weights["weight_hh"]
        return W.new_zeros(batch, W.shape[-1])
