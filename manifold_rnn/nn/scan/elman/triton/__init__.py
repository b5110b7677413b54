"""A scan of the Elman form in one GPU kernel for all time steps, by Triton."""

import importlib.util
import os
from functools import cache

import torch
from torch import Tensor

from ....._torch import has_dispatch_mode
from ....cells.elman_form import ElmanForm
from ...base import Request
from ..backend import ElmanBackend
from ..engine import Engine, PerInput, project_into, run_engine, state_buffers
from ..kernels import kernel_class

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.complex64)
_LARGEST_ROWS = 1024  # largest size of the real matrix for which "auto" uses these kernels


def triton(
    form: ElmanForm, x: Tensor, h0: Tensor, W: Tensor, *, every_step: bool = True, recompute: bool = False
) -> tuple[Tensor | None, Tensor]:
    r"""Run a recurrence :math:`h_t = f(W h_{t-1} + V x_t + b)` in one kernel, and its backward pass in another.

    The kernels contain only the recurrence. The projected inputs are one product before it, and the gradients of
    ``W``, ``V`` and ``b`` are products over all time steps after it.

    Parameters
    ----------
    form : ElmanForm
        ``f``, ``V`` and the biases.
    x : Tensor, shape (T, B, m), T >= 1
        Inputs in the dtype of the weights, of shape (T, B, n) if the form has no ``V``.
    h0 : Tensor, shape (B, n)
        State before the first step.
    W : Tensor, shape (n, n)
        Recurrent matrix, in single or half precision, or complex64.
    every_step : bool
        Whether to return all states, or only the last one.
    recompute : bool
        See `fused`. It takes about :math:`\sqrt T` launches of each kernel.

    Returns
    -------
    y : Tensor, shape (T, B, n), or None
    h : Tensor, shape (B, n)
        The last state.

    Notes
    -----
    A GPU program can run one row of the batch, with the matrix in registers (n up to 128) or streamed through them. It
    can also run a tile of several rows and some of the hidden units. Then the programs for the same rows wait for each
    other after each step, so all of them must run at once. An estimate decides which is faster. Sums are in single
    precision. Products are exact up to single-precision rounding, unless ``torch.set_float32_matmul_precision`` allows
    less. With "high", three TF32 products of the tensor cores replace one product. With "medium", one TF32 product
    does.

    It needs a GPU with compute capability 8.0 or above. If ``TRITON_INTERPRET=1`` is set before the import, the kernels
    are interpreted on the CPU, one program at a time. Then programs never share rows. It needs the memory of `fused`,
    plus the gradients of all arguments. Second derivatives are computed by the plain loop.

    Examples
    --------
    >>> def states(device):
    ...     x, h0, W, V = (torch.ones(shape, device=device) for shape in [(3, 2, 1), (2, 1), (1, 1), (1, 1)])
    ...     return mr.nn.scan.triton(mr.nn.scan.ElmanForm("relu", V), x, h0, W)[0][:, 0, 0].cpu()
    >>> assert not torch.cuda.is_available() or torch.equal(states("cuda"), torch.tensor([2.0, 3.0, 4.0]))
    """
    return run_engine(TritonEngine, form, x, h0, W, every_step, recompute)


class TritonEngine(Engine):
    """The engine of `triton`."""

    def states(self, x: Tensor, h0: Tensor) -> tuple[Tensor, Tensor | None]:
        from .launch import launch_forward

        form = self.form
        keeps_argument = kernel_class(form.activation, is_complex=h0.is_complex()).keeps_argument
        H, U = state_buffers(x, h0, keeps_argument=keeps_argument)  # (T + 1, B, n), (T, B, n)
        project_into(x, form.weight_ih, form.bias, U)
        launch_forward(form.activation, form.threshold, U, H, self.W, keeps_argument=keeps_argument)
        return H, U if keeps_argument else None

    def gradients(
        self, x: Tensor, H: Tensor, Z: Tensor | None, gy: Tensor | None, gh: Tensor | None, needed: PerInput[bool]
    ) -> PerInput[Tensor | None]:
        from .launch import launch_backward

        form, V = self.form, self.form.weight_ih
        S = H[1:] if Z is None else Z  # (T, B, n)
        D, gh0, g_threshold = launch_backward(form.activation, form.threshold, S, self.W, gy, gh)  # (T, B, n), (B, n)
        d = D.flatten(0, 1)  # (T B, n)
        if g_threshold is not None and form.threshold is not None:
            g_threshold = g_threshold.to(form.threshold.dtype)
        return PerInput(
            x=(D if V is None else D @ V.conj()) if needed.x else None,
            V=d.mT @ x.flatten(0, 1).conj() if needed.V and V is not None else None,
            b=d.sum(0) if needed.b and form.bias is not None else None,
            threshold=g_threshold if needed.threshold else None,
            W=d.mT @ H[:-1].flatten(0, 1).conj() if needed.W else None,
            h0=gh0,
        )


class Triton(ElmanBackend):
    """The scan by GPU kernels. "auto" uses it on NVIDIA GPUs, up to 1024 real hidden units."""

    name = "triton"

    def cannot_run(self, request: Request) -> str:
        x, W = request.x, request.W
        if not is_installed():
            return "Triton is not installed"
        if x.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            return f"the tensors are on {x.device.type}, and TRITON_INTERPRET=1 is not set"
        if x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) < (8, 0):
            return "the GPU is older than compute capability 8.0"
        if has_dispatch_mode():
            return "a dispatch mode has to see every operation of torch"
        if W.dtype not in _DTYPES:
            return f"there is no kernel for {W.dtype}"
        return super().cannot_run(request)

    def auto_declines(self, request: Request) -> str:
        if request.x.device.type != "cuda" or torch.version.hip is not None:
            return "the tensors are not on an NVIDIA GPU"
        rows = len(request.W) * (1 + request.W.is_complex())
        return f"BLAS is faster for products of more than {_LARGEST_ROWS} rows" if rows > _LARGEST_ROWS else ""

    def scan(self, form: ElmanForm, x: Tensor, h0: Tensor, request: Request) -> tuple[Tensor | None, Tensor]:
        return triton(form, x, h0, request.W, every_step=request.every_step, recompute=request.recompute)


@cache
def is_installed() -> bool:
    """Return whether Triton is installed, without importing it."""
    return importlib.util.find_spec("triton") is not None
