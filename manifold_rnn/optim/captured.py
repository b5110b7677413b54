"""A step that reads nothing from the device: whether it was sound is looked at later."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..linalg import fixed_iterations

if TYPE_CHECKING:
    from .base import PlainWork, RiemannianOptimizer, Work


def run_captured(
    optimizer: RiemannianOptimizer, work: list[Work], gradients: list[Tensor], plain: list[PlainWork], sound: Tensor
) -> None:
    """Step all batches, or none of them where a gradient or a result is not sound."""
    before, moved = [], []
    with fixed_iterations():
        for (group, batch), g in zip(work, gradients, strict=True):
            before.append((batch, copy.deepcopy(batch.states)))
            moved.append(y := optimizer._moved(batch, g, {**group, "capturable": True}))
            if batch.manifold is not None:
                near = batch.manifold.is_sound(y) if optimizer.checks_steps else y.isfinite()
                sound = sound & near.all().to(sound.device)
    for (batch, states), y in zip(before, moved, strict=True):
        batch.write_where(sound, y, states)
    found_inf = (~sound).to(torch.float32)
    optimizer._step_plain([({**group, "capturable": True}, together) for group, together in plain], found_inf)
    _count_skipped(optimizer, sound)


def _count_skipped(optimizer: RiemannianOptimizer, finite: Tensor) -> None:
    if not isinstance(optimizer._skipped, Tensor):
        optimizer._skipped = torch.full((), optimizer._skipped, dtype=torch.long, device=finite.device)
    optimizer._skipped.add_(~finite)
