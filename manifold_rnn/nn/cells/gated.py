"""The weights of torch's gated cells."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Cell
from .weights import allocate_empty, fill_uniform


@dataclass(frozen=True, eq=False)
class Gated(Cell):
    """A cell with the weights of ``torch.nn.LSTM`` or ``torch.nn.GRU``. Their rows have one block for each gate."""

    bias: bool = True

    def allocate(
        self,
        input_size: int,
        hidden_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Return ``weight_ih``, ``weight_hh`` and the biases, uninitialized."""
        rows = len(self.gates) * hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, input_size), "weight_hh": (rows, hidden_size)}
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        return allocate_empty(shapes, device=device, dtype=dtype)

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Initialize the weights uniformly, in torch's order, so that equal seeds give equal weights."""
        fill_uniform(self.weights, 1 / math.sqrt(self.weights["weight_hh"].shape[-1]), generator)

    def zeros(self, batch: int) -> Tensor:
        """Return zeros of the shape of a state, (B, n)."""
        V = self.weights["weight_ih"]
        return V.new_zeros(batch, len(V) // len(self.gates))
