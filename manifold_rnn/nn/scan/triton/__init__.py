"""A scan in one launch of a kernel for all time steps, on a GPU, by Triton."""

import importlib.util
import math
import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ....linalg.precision import batched, without_autocast
from ...cells.base import Form
from ..fused import _again
from ..request import Request

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.complex64)
_LARGEST = 1024  # real rows of a matrix for which "auto" takes this


def triton(
    form: Form, x: Tensor, h0: Tensor, W: Tensor, *, every_step: bool = True, recompute: bool = False
) -> tuple[Tensor | None, Tensor]:
    r"""Run a recurrence :math:`h_t = f(W h_{t-1} + V x_t + b)` in one kernel, and its backward pass in another.

    The recurrence alone is in the kernels: the projected inputs are one product before it, and the gradients of ``W``,
    ``V`` and ``b`` products over all of time after it.

    Parameters
    ----------
    form : Form
        ``f``, ``V`` and the biases.
    x : Tensor, shape (T, B, m), T >= 1
        Inputs, of the dtype of the weights; of shape (T, B, n) if the form has no ``V``.
    h0 : Tensor, shape (B, n)
        State before the first step.
    W : Tensor, shape (n, n)
        Recurrent matrix, in single or half precision, or complex64.
    every_step : bool
        Whether all states are wanted, or the last one alone.
    recompute : bool
        As in `fused`: about :math:`\sqrt T` launches then.

    Returns
    -------
    y : Tensor, shape (T, B, n), or None
    h : Tensor, shape (B, n)
        The last state.

    Notes
    -----
    A program has one row of the batch to itself, and its matrix in registers (n up to 128) or streamed through them; or
    a tile of several rows and some of the hidden units, and then waits after each step for the programs of the same
    rows, all of which run at once. What is faster is estimated. Sums are in single precision. Products of single
    precision are exact in its sense unless ``torch.set_float32_matmul_precision`` allows less: "high" takes three
    products of the tensor cores in TF32 for one, "medium" one.

    It needs a GPU of compute capability 8.0. With ``TRITON_INTERPRET=1`` in the environment from the start, kernels are
    interpreted on the CPU, one program after the other, and so without several programs for the same rows. The memory
    is that of `fused` and the gradients of all arguments. For a derivative of the gradient the plain loop is run.

    Examples
    --------
    >>> def states(device):
    ...     x, h0, W, V = (torch.ones(shape, device=device) for shape in [(3, 2, 1), (2, 1), (1, 1), (1, 1)])
    ...     return mr.nn.scan.triton(mr.nn.scan.Form("relu", V), x, h0, W)[0][:, 0, 0].cpu()
    >>> assert not torch.cuda.is_available() or torch.equal(states("cuda"), torch.tensor([2.0, 3.0, 4.0]))
    """
    chunk = math.isqrt(len(x) - 1) + 1 if recompute and not every_step else len(x)
    inputs = (x, form.weight_ih, form.bias, form.threshold, W, h0)
    y, h = _Scan.apply(form.activation, chunk, every_step, *inputs)
    return y, h


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, activation: str, chunk: int, every_step: bool, *inputs: Any) -> tuple[Tensor | None, Tensor]:
        x, V, b, threshold, W, h0 = inputs
        ctx.set_materialize_grads(False)
        ctx.activation, ctx.chunk = activation, chunk
        starts, h = [], h0
        for part in x.split(chunk):
            starts.append(h)
            H, Z = _states(activation, part, V, b, threshold, W, h)
            h = H[-1].clone()
        whole = (H, Z) if len(starts) == 1 else (None, None)
        ctx.save_for_backward(x, V, b, threshold, W, *whole, *starts)
        return H[1:] if every_step else None, h

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, gh: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: a checkpoint gives them out a single time
        with without_autocast(saved[0]):
            return (None, None, None, *_gradients(ctx, saved, gy, gh))


def _states(
    activation: str, x: Tensor, V: Tensor | None, b: Tensor | None, threshold: Tensor | None, W: Tensor, h0: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The states from ``h0`` on, (T + 1, B, n), and the arguments where the derivative needs them."""
    from .launch import fill_states

    T, B, n = len(x), *h0.shape
    H = h0.new_empty(T + 1, B, n)
    H[0] = h0
    keeps = activation == "modrelu" and H.is_complex()
    U = h0.new_empty(T, B, n) if keeps else H[1:]
    if V is None:
        U.copy_(x)
    elif b is None:
        torch.mm(x.reshape(T * B, -1), V.mT, out=U.view(T * B, n))
    else:
        torch.addmm(b, x.reshape(T * B, -1), V.mT, out=U.view(T * B, n))
    fill_states(activation, threshold, U, H, W, keeps=keeps)
    return H, U if keeps else None


def _gradients(ctx: Any, saved: Any, gy: Tensor | None, gh: Tensor | None) -> tuple[Tensor | None, ...]:
    from .launch import find_gradients

    x, V, b, threshold, W, H, Z, *starts = saved
    needed, inputs = ctx.needs_input_grad[3:], (x, V, b, threshold, W, starts[0])
    if torch.is_grad_enabled() or batched(gy, gh):
        return _again(ctx.activation, inputs, needed, gy, gh)
    sums = [
        torch.zeros_like(p) if p is not None and wanted else None
        for p, wanted in zip(inputs[1:5], needed[1:5], strict=True)
    ]
    gx: list[Tensor] = []
    ends = len(x)
    for start, part in zip(reversed(starts), reversed(x.split(ctx.chunk)), strict=True):
        if len(starts) > 1:
            H, Z = _states(ctx.activation, part, V, b, threshold, W, start)
        begin = ends - len(part)
        outside = None if gy is None else gy[begin:ends]
        D, gh, share = find_gradients(ctx.activation, threshold, H[1:] if Z is None else Z, W, outside, gh)
        _add_up(sums, D.flatten(0, 1), part.flatten(0, 1), share, H[:-1].flatten(0, 1))
        if needed[0]:
            gx.append(D if V is None else D @ V.conj())
        ends = begin
    return (torch.cat(gx[::-1]) if gx else None), *sums, gh if needed[5] else None


def _add_up(sums: list[Tensor | None], d: Tensor, x: Tensor, share: Tensor | None, before: Tensor) -> None:
    """Add what the gradients ``d`` (T B, n) of arguments contribute to others."""
    V, b, threshold, W = sums
    if V is not None:
        V.addmm_(d.mT, x.conj())
    if b is not None:
        b.add_(d.sum(0))
    if threshold is not None and share is not None:
        threshold.add_(share)
    if W is not None:
        W.addmm_(d.mT, before.conj())


def cannot_launch(request: Request) -> str:
    """Why there is no kernel for this, or nothing."""
    x, W = request.x, request.W
    if not _installed():
        return "Triton is not installed"
    if x.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the tensors are on {x.device.type}, and TRITON_INTERPRET=1 is not set"
    if x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) < (8, 0):
        return "the GPU is older than compute capability 8.0"
    if torch._C._len_torch_dispatch_stack():
        return "somebody looks at the operations of torch, and a kernel is none"
    if W.dtype not in _DTYPES:
        return f"there is no kernel for {W.dtype}"
    return "the steps have no form that is known" if request.cell.form() is None else ""


def should_not_launch(request: Request) -> str:
    """Why "auto" leaves it alone, or nothing."""
    if request.x.device.type != "cuda" or torch.version.hip is not None:
        return "the tensors are not on an NVIDIA GPU"
    rows = len(request.W) * (1 + request.W.is_complex())
    return f"products of more than {_LARGEST} rows are better left to BLAS" if rows > _LARGEST else ""


@cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None
