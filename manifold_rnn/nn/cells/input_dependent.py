"""Cells whose recurrent matrix is computed from the inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from ...linalg.precision import without_autocast
from .base import Cell
from .weights import affine


@dataclass(frozen=True, eq=False)
class InputDependent(Cell):
    """A cell that computes the matrix of each step from the input. It has no gates and accepts no constraint.

    A bound cell has an empty ``weight_hh`` with no rows, for code that passes one on. It is not a parameter.
    """

    gates: ClassVar[tuple[str, ...]] = ()

    def bind(self, weights: Mapping[str, Tensor]) -> Self:
        """Return the same cell with its weights, and with an empty ``weight_hh``."""
        if "weight_hh" in weights or "weight_ih" not in weights:
            return super().bind(weights)
        V = weights["weight_ih"]
        return super().bind({**weights, "weight_hh": V.new_empty(0, len(V))})

    def map_inputs(self, x: Tensor, name: str) -> Tensor:
        """Return ``weight_name x + bias_name`` in the dtype of the weights, without the bias if there is none.

        Autocast does not apply, because a vector rounded to half precision would have another length.
        """
        with without_autocast(x):
            return affine(x, self.weights[f"weight_{name}"], self.weights.get(f"bias_{name}"))
