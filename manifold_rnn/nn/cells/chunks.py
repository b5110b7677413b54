"""Blocks of time, in which products of many reflections are applied at once."""

import torch
from torch import Tensor
from torch.nn import functional as F

SMALL_BATCH = 8  # sequences up to which the calls of torch take longer than the numbers


def block_steps(size: int, count: int, T: int, batch: int) -> int:
    """Return the number of steps of a block, for T steps with ``count`` vectors of this size each.

    Larger blocks cost more than they save, and lose digits where they hold more vectors than the half of their size.
    """
    reflections = size // 2 if batch <= SMALL_BATCH else min(size // 2, max(16, size // 4))
    return min(T, max(1, max(8, reflections) // count))


def in_blocks(z: Tensor, steps: int) -> Tensor:
    """Return (T, ...) as (N, ..., steps, last) with the steps before the last axis; the last block ends with zeros."""
    missing = -len(z) % steps
    z = F.pad(z, (0, 0) * (z.dim() - 1) + (0, missing)) if missing else z
    return z.unflatten(0, (-1, steps)).movedim(1, -2).contiguous()


def real_steps(z: Tensor, T: int) -> Tensor | None:
    """Return which of the steps of a tensor (N, B, steps, ...) are among the first T: (N, 1, steps), or None if all."""
    N, _, steps = z.shape[:3]
    return None if N * steps == T else (torch.arange(N * steps, device=z.device) < T).view(N, 1, steps)


def groups(K: Tensor, size: int) -> list[slice]:
    """Return ranges of blocks that are worked on together: on a CPU those whose vectors (N, ...) take so many bytes."""
    N = len(K)
    step = max(1, size // max(1, K[0].numel() * K.element_size())) if K.device.type == "cpu" else N
    return [slice(start, min(start + step, N)) for start in range(0, N, step)]
