"""Calls of the kernels."""

from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from . import rows, tiles
from .tiling import Plan, choose

_PRECISIONS = {"highest": "ieee", "high": "tf32x3", "medium": "tf32"}
_INTERPRETED = not isinstance(tiles.forward, JITFunction)


def fill_states(activation: str, threshold: Tensor | None, U: Tensor, H: Tensor, W: Tensor, *, keeps: bool) -> None:
    """Fill the states ``H[1:]`` of (T + 1, B, n) from ``H[0]`` and the projected inputs ``U`` (T, B, n), in one launch.

    ``U`` may be ``H[1:]``; if the arguments of the nonlinearity are to be kept, it receives them.
    """
    T, B, n = U.shape
    plan, options = _planned(U, activation)
    M = _planes(W.mT)
    given = (_reals(U), _reals(H), M, M if threshold is None else _plain(threshold))
    with torch.cuda.device_of(U):
        if plan.rows == 1:
            rows.forward[(B,)](*given, T, B, n, KEEPS=keeps, **options)
        else:
            grid, arrived = _groups(plan, U)
            tiles.forward[grid](*given, arrived, T, B, n, plan.members, KEEPS=keeps, **options)


def find_gradients(
    activation: str, threshold: Tensor | None, S: Tensor, W: Tensor, gy: Tensor | None, gh: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of the arguments (T, B, n), of the state before the first, and of the threshold.

    ``S`` (T, B, n) are the states, or the arguments where the derivative needs those; ``gy`` are the gradients of the
    states, of any strides, and ``gh`` that of the last one from elsewhere.
    """
    T, B, n = S.shape
    plan, options = _planned(S, activation)
    D, first = torch.empty_like(S), torch.empty_like(S[0])
    last = torch.zeros_like(first) if gh is None else _plain(gh)
    shares = S.new_zeros((B, n) if threshold is not None else (1,), dtype=torch.float32)
    M, outside = _planes(W.conj()), _reals(D if gy is None else gy.resolve_conj().resolve_neg())
    given = (_reals(D[-1]), _reals(S[-1]), outside[-1], _reals(last), shares)
    rest = (M, M if threshold is None else _plain(threshold))
    strides = outside.stride()[:3]
    with torch.cuda.device_of(S):
        if plan.rows == 1:
            rows.backward[(B,)](*given, _reals(first), *rest, T, B, n, *strides, EVERY=gy is not None, **options)
        else:
            grid, arrived = _groups(plan, S)
            sizes = (T, B, n, plan.members, *strides)
            tiles.backward[grid](*given, *rest, arrived, *sizes, EVERY=gy is not None, **options)
            torch.mm(D[0], W.conj(), out=first)
    return D, first, None if threshold is None else shares.sum(0)


def _planned(like: Tensor, activation: str) -> tuple[Plan, dict[str, Any]]:
    """The plan, and what the compiler has to know."""
    _, B, n = like.shape
    parts = 1 + like.is_complex()
    processors = torch.cuda.get_device_properties(like.device).multi_processor_count if like.is_cuda else 1
    plan = choose(B, n, parts, like.element_size() // parts, processors)
    options = {"ACTIVATION": activation, "COMPLEX": like.is_complex(), "DEPTH": plan.depth}
    if plan.rows == 1:
        options |= {"HELD": plan.held, "BLOCK": plan.columns}
    else:
        options |= {"SHARED": plan.members > 1, "ROWS": plan.rows, "COLUMNS": plan.columns}
        options["PRECISION"] = _PRECISIONS[torch.get_float32_matmul_precision()]
        options["HALF"] = like.dtype.itemsize == 2 and not _INTERPRETED  # which multiplies their bits
    if not _INTERPRETED:
        options |= {"num_warps": plan.warps, "enable_fp_fusion": True}
        if plan.members > 1:
            options["launch_cooperative_grid"] = True  # the driver refuses programs that cannot all run at once
    return plan, options


def _groups(plan: Plan, like: Tensor) -> tuple[tuple[int], Tensor]:
    """The grid of programs, and a counter for each group that shares rows."""
    groups = -(-like.shape[1] // plan.rows)
    return (groups * plan.members,), torch.zeros(groups, dtype=torch.int32, device=like.device)


def _planes(W: Tensor) -> Tensor:
    return torch.stack([W.real, W.imag]) if W.is_complex() else _plain(W)


def _plain(z: Tensor) -> Tensor:
    return z.resolve_conj().resolve_neg().contiguous()


def _reals(z: Tensor) -> Tensor:
    return torch.view_as_real(z) if z.is_complex() else z
