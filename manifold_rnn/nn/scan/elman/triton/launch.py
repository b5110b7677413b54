"""Launches the kernels."""

from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from ....cells.elman_form import Activation
from . import rows, tiles
from .tiling import Tiling, choose_tiling

_PRECISIONS = {"highest": "ieee", "high": "tf32x3", "medium": "tf32"}
_INTERPRETED = not isinstance(tiles.forward, JITFunction)


def launch_forward(
    activation: Activation, threshold: Tensor | None, U: Tensor, H: Tensor, W: Tensor, *, keeps_argument: bool
) -> None:
    """Fill the states ``H[1:]`` of (T + 1, B, n) from ``H[0]`` and projected inputs ``U`` (T, B, n), in one launch.

    ``U`` may be ``H[1:]``. With ``keeps_argument``, the arguments of the nonlinearity are written to it.
    """
    T, B, n = U.shape
    tiling, options = _tiling_and_constants(U, activation)
    M = _split_planes(W.mT)  # (n, n), or (2, n, n) if complex
    tensors = (_as_real_pairs(U), _as_real_pairs(H), M, M if threshold is None else _materialize(threshold))
    with torch.cuda.device_of(U):
        if tiling.rows == 1:
            rows.forward[(B,)](*tensors, T, B, n, KEEPS=keeps_argument, **options)
        else:
            grid, arrived = _grid_and_counters(tiling, U)
            tiles.forward[grid](*tensors, arrived, T, B, n, tiling.members, KEEPS=keeps_argument, **options)


def launch_backward(
    activation: Activation, threshold: Tensor | None, S: Tensor, W: Tensor, gy: Tensor | None, gh: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of the arguments (T, B, n), of the initial state (B, n), and of the threshold (n,).

    ``S`` (T, B, n) contains the states, or the arguments if the derivative needs them. ``gy`` (T, B, n), with any
    strides, has the gradients of the states, and ``gh`` (B, n) is another gradient of the last one.
    """
    T, B, n = S.shape
    tiling, options = _tiling_and_constants(S, activation)
    D, gh0 = torch.empty_like(S), torch.empty_like(S[0])
    last = torch.zeros_like(gh0) if gh is None else _materialize(gh)
    shares = S.new_zeros((B, n) if threshold is not None else (1,), dtype=torch.float32)
    M, outputs = _split_planes(W.conj()), _as_real_pairs(D if gy is None else gy.resolve_conj().resolve_neg())
    steps = (_as_real_pairs(D[-1]), _as_real_pairs(S[-1]), outputs[-1], _as_real_pairs(last), shares)
    weights = (M, M if threshold is None else _materialize(threshold))
    strides = outputs.stride()[:3]
    with torch.cuda.device_of(S):
        if tiling.rows == 1:
            sizes = (T, B, n, *strides)
            rows.backward[(B,)](*steps, _as_real_pairs(gh0), *weights, *sizes, EVERY=gy is not None, **options)
        else:
            grid, arrived = _grid_and_counters(tiling, S)
            sizes = (T, B, n, tiling.members, *strides)
            tiles.backward[grid](*steps, *weights, arrived, *sizes, EVERY=gy is not None, **options)
            torch.mm(D[0], W.conj(), out=gh0)
    return D, gh0, None if threshold is None else shares.sum(0)


def _tiling_and_constants(like: Tensor, activation: Activation) -> tuple[Tiling, dict[str, Any]]:
    """Return the tiling for states (T, B, n), and the compile-time constants and options of the kernels."""
    _, B, n = like.shape
    parts = 1 + like.is_complex()
    processors = torch.cuda.get_device_properties(like.device).multi_processor_count if like.is_cuda else 1
    tiling = choose_tiling(B, n, parts, like.element_size() // parts, processors)
    options: dict[str, Any] = {"ACTIVATION": activation, "COMPLEX": like.is_complex(), "DEPTH": tiling.depth}
    if tiling.rows == 1:
        options |= {"HELD": tiling.held, "BLOCK": tiling.columns}
    else:
        options |= {"SHARED": tiling.members > 1, "ROWS": tiling.rows, "COLUMNS": tiling.columns}
        options["PRECISION"] = _PRECISIONS[torch.get_float32_matmul_precision()]
        # the interpreter would multiply the bit patterns of half precision
        options["HALF"] = like.dtype.itemsize == 2 and not _INTERPRETED
    if not _INTERPRETED:
        options |= {"num_warps": tiling.warps, "enable_fp_fusion": True}
        if tiling.members > 1:
            options["launch_cooperative_grid"] = True  # so the driver raises if the programs cannot all run at once
    return tiling, options


def _grid_and_counters(tiling: Tiling, like: Tensor) -> tuple[tuple[int], Tensor]:
    """Return the grid of programs, and a counter for each group of programs that share rows."""
    groups = -(-like.shape[1] // tiling.rows)
    return (groups * tiling.members,), torch.zeros(groups, dtype=torch.int32, device=like.device)


def _split_planes(W: Tensor) -> Tensor:
    """Return the stacked real and imaginary part, (2, n, n), or a real matrix unchanged."""
    return torch.stack([W.real, W.imag]) if W.is_complex() else _materialize(W)


def _materialize(z: Tensor) -> Tensor:
    """Return a contiguous tensor without pending conjugation or negation."""
    return z.resolve_conj().resolve_neg().contiguous()


def _as_real_pairs(z: Tensor) -> Tensor:
    """Return a real view, with a last axis for both parts if complex."""
    return torch.view_as_real(z) if z.is_complex() else z
