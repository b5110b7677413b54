"""A scan of the Elman form with a hand-written backward pass, in-place operations and one buffer of states."""

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from ...._torch import is_watched
from ...cells.elman_form import ElmanForm
from ...products import products_with
from ..base import Request
from .backend import ElmanBackend
from .backward import BackwardPass, GradientSums, split_steps
from .engine import Engine, PerInput, project_into, run_engine, state_buffers
from .kernels import kernel


def fused(
    form: ElmanForm, x: Tensor, h0: Tensor, W: Tensor, *, every_step: bool = True, recompute: bool = False
) -> tuple[Tensor | None, Tensor]:
    r"""Run a recurrence :math:`h_t = f(W h_{t-1} + V x_t + b)` with a hand-written backward pass.

    The backward pass is :math:`\delta_t = f'(h_t) \circ (g_t + W^{\mathsf H}\delta_{t+1})`, in a buffer of a few steps.
    The gradients of ``W``, ``V`` and the biases are sums of products over many steps at a time.

    Parameters
    ----------
    form : ElmanForm
        ``f``, ``V`` and the biases.
    x : Tensor, shape (T, B, m), T >= 1
        Inputs in the dtype of the weights, of shape (T, B, n) if the form has no ``V``.
    h0 : Tensor, shape (B, n)
        State before the first step.
    W : Tensor, shape (n, n)
        Recurrent matrix.
    every_step : bool
        Whether to return all states, or only the last one.
    recompute : bool
        Whether to keep only about :math:`\sqrt T` states for the backward pass, which computes the others again. It
        has no effect with ``every_step``.

    Returns
    -------
    y : Tensor, shape (T, B, n), or None
    h : Tensor, shape (B, n)
        The last state.

    Notes
    -----
    Second derivatives are computed by the plain loop. ``torch.func`` and ``torch.compile`` are not supported. ``y`` is
    a view of the states that the backward pass needs, so torch refuses to change it in place.

    Examples
    --------
    >>> cell = mr.nn.cells.Elman("relu", bias=False).bind({"weight_ih": torch.ones(1, 1)})
    >>> y, h = mr.nn.scan.fused(cell.elman_form(), torch.ones(3, 2, 1), torch.zeros(2, 1), torch.ones(1, 1))
    >>> assert torch.equal(y[:, 0, 0], torch.tensor([1.0, 2.0, 3.0])) and torch.equal(h, y[-1])
    """
    return run_engine(FusedEngine, form, x, h0, W, every_step, recompute)


class FusedEngine(Engine):
    """The engine of `fused`."""

    def states(self, x: Tensor, h0: Tensor) -> tuple[Tensor, Tensor | None]:
        form, product = self.form, products_with(self.W, len(h0))
        f = kernel(form.activation, form.threshold, h0)
        H, U = state_buffers(x, h0, keeps_argument=f.keeps_argument)  # (T + 1, B, n), (T, B, n)
        with without_autograd_overhead(x, h0, self.W):
            h, states = H[0], H[1:].unbind(0)
            arguments = U.unbind(0) if f.keeps_argument else states
            for part in split_steps(H):
                project_into(x[part], form.weight_ih, form.bias, U[part])  # still in the cache when its steps are run
                for z, next_h in zip(arguments[part], states[part], strict=True):  # (B, n) each
                    f.apply(product.forward(z, h), next_h)
                    h = next_h
        return H, U if f.keeps_argument else None

    def gradients(
        self, x: Tensor, H: Tensor, Z: Tensor | None, gy: Tensor | None, gh: Tensor | None, needed: PerInput[bool]
    ) -> PerInput[Tensor | None]:
        f, gh0 = kernel(self.form.activation, self.form.threshold, H[0]), torch.empty_like(H[0])
        backward = BackwardPass(f, products_with(self.W, H.shape[1]), H, Z, gy, gh)
        sums = GradientSums(f, self.form, self.W, x, H, needed)
        with without_autograd_overhead(x, H, self.W):
            for part in reversed(split_steps(H)):
                sums.add(part, *backward.run(part))
            gh0.copy_(backward.initial_state_gradient())
        return sums.gradients(gh0)


def without_autograd_overhead(*tensors: Tensor) -> AbstractContextManager[object]:
    """Return a context with less autograd overhead. Tensors created in it must not be saved or returned."""
    return contextlib.nullcontext() if is_watched(*tensors) else torch.inference_mode()


class Fused(ElmanBackend):
    """The scan by in-place torch operations."""

    name = "fused"

    def scan(self, form: ElmanForm, x: Tensor, h0: Tensor, request: Request) -> tuple[Tensor | None, Tensor]:
        return fused(form, x, h0, request.W, every_step=request.every_step, recompute=request.recompute)
