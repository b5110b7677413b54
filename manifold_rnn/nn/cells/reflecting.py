"""The base class of cells with input-dependent reflections: vectors and strengths."""

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from ...linalg.householder import unit
from ..activations import gate
from .input_dependent import InputDependent
from .options import require_choice, require_count
from .weights import fill_uniform

Strength = Literal["reflection", "up to 2", "up to 1"]


@dataclass(frozen=True, eq=False)
class Reflecting(InputDependent):
    r"""A cell whose steps are products of :math:`I - \beta_j k_j k_j^{\mathsf H}`, with unit vectors from the input."""

    reflections: int = 2
    beta: Strength = "reflection"
    bias: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        name = type(self).__name__
        require_count(name, "reflections", self.reflections, unit="reflections")
        require_choice(name, "beta", self.beta, get_args(Strength))

    def shapes_of_reflections(self, input_size: int, rows: int, strengths: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights of the vectors, and of the strengths if they are trained."""
        shapes: dict[str, tuple[int, ...]] = {"weight_key": (rows, input_size)}
        if self.bias:
            shapes["bias_key"] = (rows,)
        if self.beta != "reflection":
            shapes |= {"weight_beta": (strengths, input_size), "bias_beta": (strengths,)}
        return shapes

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Initialize the weights and a threshold uniformly, and the biases with zeros."""
        V = self.weights["weight_ih"]
        for name, weight in self.weights.items():
            if name.startswith("bias_"):
                torch.nn.init.zeros_(weight)
            else:
                fill_uniform({name: weight}, 0.01 if name == "bias" else V.shape[-1] ** -0.5, generator)

    def vectors(self, x: Tensor, name: str, size: int) -> Tensor:
        """Return rows of ``map_inputs`` scaled to length 1, (..., rows, size). Zero vectors stay zero."""
        return unit(self.map_inputs(x, name).unflatten(-1, (-1, size)))

    def strengths(self, x: Tensor, rows: int) -> Tensor:
        """Return the strengths as real numbers, (..., rows)."""
        if self.beta == "reflection":
            return self.weights["weight_ih"].real.new_full((*x.shape[:-1], rows), 2.0)
        largest = 2.0 if self.beta == "up to 2" else 1.0
        return (largest * gate(self.map_inputs(x, "beta"))).real

    def with_strengths(self, parts: list[Tensor], x: Tensor, rows: int) -> list[Tensor]:
        """Return the parts of a projection in the dtype of the weights, with the strengths unless all of them are 2."""
        V = self.weights["weight_ih"]
        return parts if self.beta == "reflection" else [*parts, self.strengths(x, rows).to(V.dtype)]
