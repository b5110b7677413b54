"""Blocks of time steps, in which products of many reflections are applied at once."""

import torch
from torch import Tensor
from torch.nn import functional as F

SMALL_BATCH = 8  # largest batch for which the overhead of torch calls dominates


def block_steps(size: int, count: int, T: int, batch: int) -> int:
    """Return the number of steps of a block, for T steps with ``count`` vectors of this size each.

    Larger blocks are slower. They also lose accuracy if they have more vectors than half of the vector size.
    """
    reflections = size // 2 if batch <= SMALL_BATCH else min(size // 2, max(16, size // 4))
    return min(T, max(1, max(8, reflections) // count))


def in_blocks(z: Tensor, steps: int) -> Tensor:
    """Return (T, ...) as (N, ..., steps, last), with the steps before the last axis and zeros as padding."""
    missing = -len(z) % steps
    z = F.pad(z, (0, 0) * (z.dim() - 1) + (0, missing)) if missing else z
    return z.unflatten(0, (-1, steps)).movedim(1, -2).contiguous()


def real_steps(z: Tensor, T: int) -> Tensor | None:
    """Return which steps of a tensor (N, B, steps, ...) are among the first T: (N, 1, steps), or None if all are."""
    N, _, steps = z.shape[:3]
    return None if N * steps == T else (torch.arange(N * steps, device=z.device) < T).view(N, 1, steps)


def groups(K: Tensor, size: int) -> list[slice]:
    """Return ranges of blocks that are computed together. On a CPU they take about ``size`` bytes."""
    N = len(K)
    step = max(1, size // max(1, K[0].numel() * K.element_size())) if K.device.type == "cpu" else N
    return [slice(start, min(start + step, N)) for start in range(0, N, step)]
