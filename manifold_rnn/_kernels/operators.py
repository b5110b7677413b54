"""Torch operators for a scan of the Elman form: its forward pass and its gradients.

``scan_forward`` returns the states from ``h0`` on, (T + 1, B, n), and the arguments of ``f``, (T, B, n). The arguments
are empty unless the derivative needs them. ``scan_backward`` returns the gradients of x, V, b, threshold, W and h0;
gradients that are not needed are empty. The operators have no autograd formula: the scan's own autograd function calls
both.

The library computes with real numbers only: complex matrices become real ones of twice the size.
"""

import ctypes
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .loading import library

_DTYPE_NAMES = {torch.float32: "float", torch.float64: "double"}

# codes in the C++ source, by activation and whether the numbers are complex
_ACTIVATION_CODES = {
    ("linear", False): 0,
    ("relu", False): 1,
    ("tanh", False): 2,
    ("modrelu", False): 3,
    ("linear", True): 0,
    ("modrelu", True): 4,
}
_MATRICES = ("V", "W")
_NAMES = ("x", "V", "b", "threshold", "W", "h0")  # the tensors that may have a gradient
_SIZES = ("steps", "batch", "units", "features", "activation", "threads", "x_step", "x_row", "g_step", "g_row")
_INPUTS = ("x", "V", "bias", "threshold", "W", "states", "arguments", "gy", "gh")
_GRADIENTS = ("gx", "gV", "gb", "gt", "gW", "gh0")

_ARGUMENTS = "Tensor x, Tensor? V, Tensor? b, Tensor? threshold, Tensor W"
_OPERATORS = torch.library.Library("manifold_rnn", "DEF")
_OPERATORS.define(f"scan_forward({_ARGUMENTS}, Tensor h0, str activation, bool keeps_argument) -> (Tensor, Tensor)")
_OPERATORS.define(
    f"scan_backward({_ARGUMENTS}, Tensor H, Tensor Z, Tensor? gy, Tensor? gh, str activation, bool[6] needed)"
    " -> Tensor[]"
)


class _Arguments(ctypes.Structure):
    """The struct `Scan` of the C++ source."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_void_p) for name in (*_INPUTS, *_GRADIENTS)),
    )


def _empty_states(
    x: Tensor,
    V: Tensor | None,
    b: Tensor | None,
    threshold: Tensor | None,
    W: Tensor,
    h0: Tensor,
    activation: str,
    keeps_argument: bool,
) -> tuple[Tensor, Tensor]:
    """Return results of ``scan_forward`` with the right shapes and uninitialized numbers."""
    H = h0.new_empty(len(x) + 1, *h0.shape)
    return H, h0.new_empty(len(x), *h0.shape) if keeps_argument else h0.new_empty(0)


def _forward(
    x: Tensor,
    V: Tensor | None,
    b: Tensor | None,
    threshold: Tensor | None,
    W: Tensor,
    h0: Tensor,
    activation: str,
    keeps_argument: bool,
) -> tuple[Tensor, Tensor]:
    H, Z = _empty_states(x, V, b, threshold, W, h0, activation, keeps_argument)
    H[0] = h0
    real = [_as_real(p, name, H.is_complex()) for p, name in zip((x, V, b, threshold, W), _NAMES, strict=False)]
    _call("forward", activation, real, H, Z if keeps_argument else None, None, None, [None] * len(_GRADIENTS))
    return H, Z


def _empty_gradients(
    x: Tensor,
    V: Tensor | None,
    b: Tensor | None,
    threshold: Tensor | None,
    W: Tensor,
    H: Tensor,
    Z: Tensor,
    gy: Tensor | None,
    gh: Tensor | None,
    activation: str,
    needed: Sequence[bool],
) -> list[Tensor]:
    """Return results of ``scan_backward`` with the right shapes and uninitialized numbers."""
    inputs = zip((x, V, b, threshold, W, H[0]), needed, strict=True)
    return [p.new_empty(p.shape) if p is not None and need else H.new_empty(0) for p, need in inputs]


def _backward(
    x: Tensor,
    V: Tensor | None,
    b: Tensor | None,
    threshold: Tensor | None,
    W: Tensor,
    H: Tensor,
    Z: Tensor,
    gy: Tensor | None,
    gh: Tensor | None,
    activation: str,
    needed: Sequence[bool],
) -> list[Tensor]:
    is_complex = H.is_complex()
    inputs = (x, V, b, threshold, W, H[0])
    real = [_as_real(p, name, is_complex) for p, name in zip(inputs, _NAMES, strict=True)]
    gradients = [None if p is None or not need else p.new_zeros(p.shape) for p, need in zip(real, needed, strict=True)]
    _call("backward", activation, real[:-1], H, Z if Z.numel() else None, gy, gh, gradients)
    results = [_from_real(g, name, is_complex) for g, name in zip(gradients, _NAMES, strict=True)]
    return [H.new_empty(0) if g is None else g for g in results]


_OPERATORS.impl("scan_forward", _forward, "CPU")
_OPERATORS.impl("scan_backward", _backward, "CPU")
torch.library.register_fake("manifold_rnn::scan_forward", _empty_states, lib=_OPERATORS)
torch.library.register_fake("manifold_rnn::scan_backward", _empty_gradients, lib=_OPERATORS)
scan_forward = torch.ops.manifold_rnn.scan_forward
scan_backward = torch.ops.manifold_rnn.scan_backward


def _call(
    direction: Literal["forward", "backward"],
    activation: str,
    inputs: Sequence[Tensor | None],
    H: Tensor,
    Z: Tensor | None,
    gy: Tensor | None,
    gh: Tensor | None,
    gradients: Sequence[Tensor | None],
) -> None:
    """Fill the states ``H`` and the arguments ``Z`` of ``f``, or the gradients. Inputs and gradients are real."""
    is_complex, compiled = H.is_complex(), library()
    assert compiled is not None
    x, outputs = (_with_unit_stride(p) for p in (inputs[0], _as_real(gy, "x", is_complex)))
    weights = [_contiguous(p) for p in inputs[1:]]
    states, arguments, last = (_contiguous(_as_real(p, "x", is_complex)) for p in (H, Z, gh))
    assert x is not None and states is not None
    code = _ACTIVATION_CODES[activation, is_complex]
    sizes = (len(x), *states.shape[1:], x.shape[-1], code, torch.get_num_threads())
    strides = (*x.stride()[:2], *((0, 0) if outputs is None else outputs.stride()[:2]))
    tensors = (x, *weights, states, arguments, outputs, last, *gradients)
    struct = _Arguments(*sizes, *strides, *(None if p is None else p.data_ptr() for p in tensors))
    if compiled[f"{direction}_{_DTYPE_NAMES[states.dtype]}"](ctypes.byref(struct)):
        raise MemoryError("The native scan could not allocate its buffers.")


def _as_real(p: Tensor | None, name: str, is_complex: bool) -> Tensor | None:
    """Return the real and imaginary parts interleaved; for a matrix, the real matrix that acts on such vectors."""
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
    """Return the gradient of a tensor, given the gradient of its `_as_real`."""
    if g is None or not is_complex:
        return g
    if name == "threshold":  # the library writes the sum over both parts to each of them
        return g[::2].clone()
    if name not in _MATRICES:
        return torch.view_as_complex(g.unflatten(-1, (-1, 2)))
    g = g.unflatten(1, (-1, 2)).unflatten(0, (-1, 2))  # (n, 2, m, 2)
    return torch.complex(g[:, 0, :, 0] + g[:, 1, :, 1], g[:, 1, :, 0] - g[:, 0, :, 1])


def _contiguous(p: Tensor | None) -> Tensor | None:
    return None if p is None else p.contiguous()


def _with_unit_stride(p: Tensor | None) -> Tensor | None:
    """Return the tensor with the entries of each row adjacent in memory."""
    return p if p is None or p.shape[-1] == 1 or p.stride(-1) == 1 else p.contiguous()
