"""What reports ask of a network: its recurrent matrix, the eigenvalues, how far constrained weights are off."""

from typing import Any

import torch
from torch import Tensor, nn

from ..constraints import parametrizations
from ..nn import Layer


def recurrent_matrix(network: nn.Module) -> tuple[str, Tensor]:
    """Return the first layer's recurrent matrix and what it is called; of several gates, that of the candidate."""
    layer: Any = network.layer
    weight: Tensor = layer.weight_hh_l0.detach()
    blocks = weight.split(weight.shape[1])
    if len(blocks) == 1:
        return "W_hh", weight
    names = layer.cell.gates if isinstance(layer, Layer) else ("i", "f", "g", "o")
    chosen = next((name for name in ("g", "n", "c") if name in names), names[0])
    return f"W_hh of {chosen}", blocks[names.index(chosen)]


def spectrum(network: nn.Module) -> list[complex]:
    """Return the eigenvalues of the recurrent matrix; none if it is not finite."""
    matrix = _widened(recurrent_matrix(network)[1])
    if not matrix.isfinite().all():
        return []
    values: list[complex] = torch.linalg.eigvals(matrix).tolist()
    return values


def worst_defect(network: nn.Module) -> float | None:
    """Return the largest defect of all constrained weights, each by its manifold's measure; None if there are none."""
    return max(defects(network).values(), default=None)


def defects(network: nn.Module) -> dict[str, float]:
    """Return the largest defect of every constrained weight that has a measure, by the weight's name."""
    found: dict[str, float] = {}
    for name, entry in parametrizations(network):
        defect = entry.defect()
        if defect is not None:
            found[name] = float(defect)
    return found


def _widened(weight: Tensor) -> Tensor:
    # rounding of the measurement itself would show: it is as large as the defects that are measured
    return weight.to(torch.complex128 if weight.is_complex() else torch.float64)
