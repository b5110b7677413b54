"""Calls of the C++ library, which works on real numbers only: complex matrices become real ones of twice the size."""

import ctypes
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ....cells.elman_form import Activation
from ..engine import PerInput
from .building import load_library

DTYPE_NAMES = {torch.float32: "float", torch.float64: "double"}

# codes of the source, by activation and whether the numbers are complex
_ACTIVATION_CODES: dict[tuple[Activation, bool], int] = {
    ("linear", False): 0,
    ("relu", False): 1,
    ("tanh", False): 2,
    ("modrelu", False): 3,
    ("linear", True): 0,
    ("modrelu", True): 4,
}
_MATRICES = ("V", "W")
_SIZES = ("steps", "batch", "units", "features", "activation", "threads", "x_step", "x_row", "g_step", "g_row")
_INPUTS = ("x", "V", "bias", "threshold", "W", "states", "arguments", "gy", "gh")
_GRADIENTS = ("gx", "gV", "gb", "gt", "gW", "gh0")
_NO_GRADIENTS = PerInput(False, False, False, False, False, False)


class _Arguments(ctypes.Structure):
    """The struct `Scan` of the source."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_void_p) for name in (*_INPUTS, *_GRADIENTS)),
    )


def call_library(
    direction: Literal["forward", "backward"],
    activation: Activation,
    inputs: PerInput[Tensor | None],
    H: Tensor,
    Z: Tensor | None,
    needed: PerInput[bool] = _NO_GRADIENTS,
    gy: Tensor | None = None,
    gh: Tensor | None = None,
) -> PerInput[Tensor | None]:
    """Fill the states ``H`` and the arguments ``Z`` of ``f``, or return the gradients that are needed."""
    is_complex, library = H.is_complex(), load_library()
    assert library is not None
    names = PerInput._fields
    real = PerInput(*(_as_real(p, name, is_complex) for p, name in zip(inputs, names, strict=True)))
    gradients = [None if p is None or not need else p.new_zeros(p.shape) for p, need in zip(real, needed, strict=True)]
    x, outputs = (_with_unit_stride(p) for p in (real.x, _as_real(gy, "x", is_complex)))
    weights = [None if p is None else p.contiguous() for p in real[1:5]]
    states, arguments, last = (_contiguous(_as_real(p, "x", is_complex)) for p in (H, Z, gh))
    assert x is not None and states is not None
    code = _ACTIVATION_CODES[activation, is_complex]
    sizes = (len(x), *states.shape[1:], x.shape[-1], code, torch.get_num_threads())
    strides = (*x.stride()[:2], *((0, 0) if outputs is None else outputs.stride()[:2]))
    tensors: Sequence[Tensor | None] = (x, *weights, states, arguments, outputs, last, *gradients)
    arguments_struct = _Arguments(*sizes, *strides, *(None if p is None else p.data_ptr() for p in tensors))
    if library[f"{direction}_{DTYPE_NAMES[states.dtype]}"](ctypes.byref(arguments_struct)):
        raise MemoryError("The native scan could not allocate its buffers.")
    return PerInput(*(_from_real(g, name, is_complex) for g, name in zip(gradients, names, strict=True)))


def _as_real(p: Tensor | None, name: str, is_complex: bool) -> Tensor | None:
    """Return the parts of complex numbers side by side; for a matrix, the real matrix that maps such vectors alike."""
    if p is None or not is_complex:
        return None if p is None else p.resolve_neg()
    if name == "threshold":
        return p.repeat_interleave(2)
    parts = torch.view_as_real(p.resolve_conj().resolve_neg())  # (..., n, 2)
    if name not in _MATRICES:
        return parts.flatten(-2)
    re, im = parts.unbind(-1)
    blocks = torch.stack([torch.stack([re, -im], -1), torch.stack([im, re], -1)], 1)  # (n, 2, m, 2)
    return blocks.flatten(2).flatten(0, 1)


def _from_real(g: Tensor | None, name: str, is_complex: bool) -> Tensor | None:
    """Return the gradient of a tensor, from the gradient of its `_as_real`."""
    if g is None or not is_complex:
        return g
    if name == "threshold":  # the library writes the sum over both parts to each
        return g[::2]
    if name not in _MATRICES:
        return torch.view_as_complex(g.unflatten(-1, (-1, 2)))
    g = g.unflatten(1, (-1, 2)).unflatten(0, (-1, 2))  # (n, 2, m, 2)
    return torch.complex(g[:, 0, :, 0] + g[:, 1, :, 1], g[:, 1, :, 0] - g[:, 0, :, 1])


def _contiguous(p: Tensor | None) -> Tensor | None:
    return None if p is None else p.contiguous()


def _with_unit_stride(p: Tensor | None) -> Tensor | None:
    """Return the tensor with the entries of each row next to each other."""
    return p if p is None or p.shape[-1] == 1 or p.stride(-1) == 1 else p.contiguous()
