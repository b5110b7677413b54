"""Cells whose steps have no matrix of their own: it is computed from the inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from ...linalg.precision import without_autocast
from .base import Cell
from .weights import affine


@dataclass(frozen=True, eq=False)
class InputDependent(Cell):
    """A cell that computes the matrix of each step from the input, so that it has no gates and takes no constraint.

    Its ``weight_hh`` has no rows. It is no parameter; a bound cell has it for everything that passes one on.
    """

    gates: ClassVar[tuple[str, ...]] = ()

    def bind(self, weights: Mapping[str, Tensor]) -> Self:
        """Return the same cell with its weights, and with an empty ``weight_hh``."""
        if "weight_hh" in weights or "weight_ih" not in weights:
            return super().bind(weights)
        V = weights["weight_ih"]
        return super().bind({**weights, "weight_hh": V.new_empty(0, len(V))})

    def map_inputs(self, x: Tensor, name: str) -> Tensor:
        """Return ``weight_name x + bias_name``, the bias where there is one, in the dtype of the weights.

        Autocast does not apply: a vector that was rounded to half precision would have another length.
        """
        with without_autocast(x):
            return affine(x, self.weights[f"weight_{name}"], self.weights.get(f"bias_{name}"))
