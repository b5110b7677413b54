"""Initializations that several networks of the zoo share."""

from typing import Any

import torch
from torch import nn
from torch.nn import init

from ..nn import Layer


def start_cell(layer: Layer, generator: torch.Generator | None) -> None:
    """Initialize the weights of a layer of one level as its cell does. Trivialized weights are left unchanged."""
    cell: Any = layer.cell.bind({name: weight.detach() for name, weight in layer.weights("_l0").items()})
    cell.reset(generator)


def start_linear(readout: nn.Linear, generator: torch.Generator | None) -> None:
    """Initialize a linear map as torch does, uniformly between plus and minus the root of 1 / inputs."""
    bound = readout.in_features**-0.5
    for p in readout.parameters():
        init.uniform_(p, -bound, bound, generator=generator)


def one_bias(layer: Layer) -> None:
    """Set the second of torch's two biases to zero and do not train it, because only their sum matters."""
    init.zeros_(layer.get_parameter("bias_hh_l0")).requires_grad_(False)
