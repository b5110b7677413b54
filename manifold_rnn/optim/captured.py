"""A step that reads nothing from the device. Its result is checked on the device."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..linalg import fixed_iterations
from .batch import Batch

Group = dict[str, Any]


def move_captured(
    work: list[tuple[Group, Batch]],
    gradients: list[Tensor],
    sound: Tensor,
    moved_by: Callable[[Batch, Tensor, Group], Tensor],
    *,
    checks: bool,
) -> Tensor:
    """Move all batches, or none if a gradient or a result is not finite; return whether they were moved."""
    before, moved = [], []
    with fixed_iterations():
        for (group, batch), g in zip(work, gradients, strict=True):
            before.append((batch, copy.deepcopy(batch.states)))
            moved.append(y := moved_by(batch, g, {**group, "capturable": True}))
            if batch.manifold is not None:
                near = batch.manifold.is_sound(y) if checks else y.isfinite()
                sound = sound & near.all().to(sound.device)
    for (batch, states), y in zip(before, moved, strict=True):
        batch.write_where(sound, y, states)
    return sound


def count_skipped(skipped: int | Tensor, sound: Tensor) -> Tensor:
    """Count a skipped step on the device."""
    if not isinstance(skipped, Tensor):
        skipped = torch.full((), skipped, dtype=torch.long, device=sound.device)
    return skipped.add_(~sound)
