"""A scan in one call of a compiled library, forward and backward."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from ....._torch import is_watched
from .....errors import UnsupportedError
from ....cells.base import Form
from ...base import Request
from ..engine import Engine, Gradients, run_form
from .building import cannot_load, library

_ACTIVATIONS = {
    **{(name, False): k for k, name in enumerate(("linear", "relu", "tanh", "modrelu"))},
    ("linear", True): 0,
    ("modrelu", True): 4,
}
_NAMES = {torch.float32: "float", torch.float64: "double"}
_INPUTS = ("x", "V", "bias", "threshold", "W", "h0")
_MATRICES = ("V", "W")
_ROWS_FOR = 8  # columns of the matrix it takes a step of a sequence for its packing to pay
_SIZES = ("steps", "batch", "units", "features", "activation", "threads", "x_step", "x_row", "g_step", "g_row")
_GIVEN = ("x", "V", "bias", "threshold", "W", "states", "arguments", "gy", "gh")
_FOUND = ("gx", "gV", "gb", "gt", "gW", "gh0")


class _Call(ctypes.Structure):
    """`Scan` of the source."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_void_p) for name in (*_GIVEN, *_FOUND)),
    )


def native(
    form: Form, x: Tensor, h0: Tensor, W: Tensor, *, every_step: bool = True, recompute: bool = False
) -> tuple[Tensor | None, Tensor]:
    r"""Run a recurrence :math:`h_t = f(W h_{t-1} + V x_t + b)` as `fused` does, in a compiled library.

    Parameters
    ----------
    form : Form
        ``f``, ``V`` and the biases.
    x : Tensor, shape (T, B, m), T >= 1
        Inputs, of the dtype of the weights.
    h0 : Tensor, shape (B, n)
        State before the first step.
    W : Tensor, shape (n, n)
        Recurrent matrix.
    every_step : bool
        Whether all states are wanted, or the last one alone.
    recompute : bool
        As in `fused`.

    Returns
    -------
    y : Tensor, shape (T, B, n), or None
    h : Tensor, shape (B, n)
        The last state.

    Raises
    ------
    UnsupportedError
        If there is no library, and none can be built; see `build_native`.

    Notes
    -----
    On a CPU, of single or double precision, real or complex. Threads share the batch, at least four rows each. Complex
    matrices become real ones of twice the size. For a derivative of the gradient the plain loop is run instead.

    Examples
    --------
    >>> cell = mr.nn.cells.Elman("relu", bias=False).bind({"weight_ih": torch.ones(1, 1)})
    >>> if mr.nn.scan.build_native():
    ...     y, h = mr.nn.scan.native(cell.form(), torch.ones(3, 2, 1), torch.zeros(2, 1), torch.ones(1, 1))
    ...     assert torch.equal(y[:, 0, 0], torch.tensor([1.0, 2.0, 3.0])) and torch.equal(h, y[-1])
    """
    return run_form(_Native, form, x, h0, W, every_step, recompute)


def cannot_run(r: Request) -> str:
    """Why the native scan cannot run this, or nothing; compiles it if nobody has."""
    tensors = (r.x, r.W, *r.state, *r.cell.weights.values())
    if any(t.device.type != "cpu" for t in tensors):
        return "it runs on a CPU"
    if is_watched(*tensors):
        return "tensors without numbers, or a mode, look at every operation"
    real = r.W.dtype.to_real()
    if real not in _NAMES or r.state[0].dtype != r.W.dtype or any(t.dtype.to_real() != real for t in tensors):
        return "it takes single or double precision, the same for all"
    return "the steps have no form that is known" if r.form() is None else cannot_load()


def should_not_run(r: Request) -> str:
    """Why another scan is to be preferred, or nothing."""
    if library() is None:
        return "manifold_rnn.nn.scan.build_native() was not called on this machine"
    few = r.x.shape[:-1].numel() * _ROWS_FOR < len(r.W)
    return "packing the matrix takes longer than so few products with it" if few else ""


class _Native(Engine):
    def states(self, x: Tensor, h0: Tensor) -> tuple[Tensor, Tensor | None]:
        H = h0.new_empty(len(x) + 1, *h0.shape)
        H[0] = h0
        Z = torch.empty_like(H[1:]) if self.activation == "modrelu" and h0.is_complex() else None
        _call("forward", self.activation, self._inputs(x, h0), H, Z)
        return H, Z

    def gradients(
        self, x: Tensor, H: Tensor, Z: Tensor | None, gy: Tensor | None, gh: Tensor | None, needed: tuple[bool, ...]
    ) -> Gradients:
        needed = (*needed[:5], True)
        return tuple(_call("backward", self.activation, self._inputs(x, H[0]), H, Z, needed, gy, gh))

    def _inputs(self, x: Tensor, h0: Tensor) -> tuple[Tensor | None, ...]:
        return x, self.V, self.b, self.threshold, self.W, h0


def _call(
    name: str,
    activation: str,
    inputs: Any,
    H: Tensor,
    Z: Tensor | None,
    needed: tuple[bool, ...] = (False,) * 6,
    gy: Tensor | None = None,
    gh: Tensor | None = None,
) -> list[Tensor | None]:
    """Call the library; the gradients of the inputs that need one."""
    if reason := cannot_load():
        raise UnsupportedError(
            f"The native scan is compiled on the machine that uses it.\nGot none: {reason}.\nUse fused."
        )
    pairs, call = H.is_complex(), library()
    real = [None if p is None else _real(p, kind, pairs) for p, kind in zip(inputs, _INPUTS, strict=True)]
    found = [None if p is None or not wanted else p.new_zeros(p.shape) for p, wanted in zip(real, needed, strict=True)]
    x, outside = (None if p is None else _in_rows(p) for p in (real[0], None if gy is None else _real(gy, "x", pairs)))
    weights = [None if p is None else p.contiguous() for p in real[1:5]]
    states, arguments, last = (None if p is None else _real(p, "x", pairs).contiguous() for p in (H, Z, gh))
    assert x is not None and states is not None and call is not None
    sizes = (len(x), *states.shape[1:], x.shape[-1], _ACTIVATIONS[activation, pairs], torch.get_num_threads())
    strides = (*x.stride()[:2], *((0, 0) if outside is None else outside.stride()[:2]))
    tensors = (x, *weights, states, arguments, outside, last, *found)
    told = _Call(*sizes, *strides, *(None if p is None else p.data_ptr() for p in tensors))
    if call[f"{name}_{_NAMES[states.dtype]}"](ctypes.byref(told)):
        raise MemoryError("The native scan found no memory for its weights and sums.")
    return [None if g is None else _joined(g, kind, pairs) for g, kind in zip(found, _INPUTS, strict=True)]


def _real(p: Tensor, kind: str, pairs: bool) -> Tensor:
    """The numbers of a complex tensor side by side; of a matrix, the real one that does the same to such numbers."""
    if not pairs:
        return p.resolve_neg()
    if kind == "threshold":
        return p.repeat_interleave(2)
    numbers = torch.view_as_real(p.resolve_conj().resolve_neg())
    if kind not in _MATRICES:
        return numbers.flatten(-2)
    re, im = numbers.unbind(-1)
    both = torch.stack([torch.stack([re, -im], -1), torch.stack([im, re], -1)], 1)
    return both.flatten(2).flatten(0, 1)


def _joined(g: Tensor, kind: str, pairs: bool) -> Tensor:
    """The gradient of a tensor, given that of what `_real` made of it."""
    if not pairs:
        return g
    if kind == "threshold":  # the library has the sum over both numbers at either
        return g[::2]
    if kind not in _MATRICES:
        return torch.view_as_complex(g.unflatten(-1, (-1, 2)))
    g = g.unflatten(1, (-1, 2)).unflatten(0, (-1, 2))
    return torch.complex(g[:, 0, :, 0] + g[:, 1, :, 1], g[:, 1, :, 0] - g[:, 0, :, 1])


def _in_rows(p: Tensor) -> Tensor:
    return p if p.shape[-1] == 1 or p.stride(-1) == 1 else p.contiguous()
