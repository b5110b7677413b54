"""A scan in one launch of a kernel for all time steps, on a GPU, by Triton."""

import importlib.util
import os
from functools import cache

import torch
from torch import Tensor

from ....._torch import has_dispatch_mode
from ....cells.base import Form
from ...base import Request
from ..engine import Engine, Gradients, project, run_form, state_buffers

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
    return run_form(_Triton, form, x, h0, W, every_step, recompute)


class _Triton(Engine):
    def states(self, x: Tensor, h0: Tensor) -> tuple[Tensor, Tensor | None]:
        from .launch import fill_states

        keeps = self.activation == "modrelu" and h0.is_complex()
        H, U = state_buffers(x, h0, keeps)
        project(x, self.V, self.b, U)
        fill_states(self.activation, self.threshold, U, H, self.W, keeps=keeps)
        return H, U if keeps else None

    def gradients(
        self, x: Tensor, H: Tensor, Z: Tensor | None, gy: Tensor | None, gh: Tensor | None, needed: tuple[bool, ...]
    ) -> Gradients:
        from .launch import find_gradients

        S = H[1:] if Z is None else Z
        D, first, threshold = find_gradients(self.activation, self.threshold, S, self.W, gy, gh)
        d, V, b = D.flatten(0, 1), self.V, self.b
        return (
            (D if V is None else D @ V.conj()) if needed[0] else None,
            d.mT @ x.flatten(0, 1).conj() if needed[1] and V is not None else None,
            d.sum(0) if needed[2] and b is not None else None,
            threshold.to(self.threshold.dtype)
            if needed[3] and threshold is not None and self.threshold is not None
            else None,
            d.mT @ H[:-1].flatten(0, 1).conj() if needed[4] else None,
            first,
        )


def cannot_launch(request: Request) -> str:
    """Why there is no kernel for this, or nothing."""
    x, W = request.x, request.W
    if not _installed():
        return "Triton is not installed"
    if x.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the tensors are on {x.device.type}, and TRITON_INTERPRET=1 is not set"
    if x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) < (8, 0):
        return "the GPU is older than compute capability 8.0"
    if has_dispatch_mode():
        return "somebody looks at the operations of torch, and a kernel is none"
    if W.dtype not in _DTYPES:
        return f"there is no kernel for {W.dtype}"
    return "the steps have no form that is known" if request.form() is None else ""


def should_not_launch(request: Request) -> str:
    """Why "auto" leaves it alone, or nothing."""
    if request.x.device.type != "cuda" or torch.version.hip is not None:
        return "the tensors are not on an NVIDIA GPU"
    rows = len(request.W) * (1 + request.W.is_complex())
    return f"products of more than {_LARGEST} rows are better left to BLAS" if rows > _LARGEST else ""


@cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None
