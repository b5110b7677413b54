"""One autograd function for every scan of the Elman form, and the interface of its engines."""

import math
from abc import ABC, abstractmethod
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from ....linalg.precision import batched, without_autocast
from ...cells.elman_form import Activation, ElmanForm
from ...gradients import gradients_by_autograd
from .kernels import kernel

_T = TypeVar("_T")


class PerInput(NamedTuple, Generic[_T]):
    """One value for each differentiable input of a scan, such as the tensor, its gradient, or a flag."""

    x: _T  # (T, B, m)
    V: _T  # (n, m)
    b: _T  # (n,)
    threshold: _T  # (n,)
    W: _T  # (n, n)
    h0: _T  # (B, n)


class Engine(ABC):
    """The forward and backward pass of a recurrence over some steps, created for one pass."""

    def __init__(self, form: ElmanForm, W: Tensor) -> None:
        self.form, self.W = form, W

    @abstractmethod
    def states(self, x: Tensor, h0: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the states from ``h0`` on, (T + 1, B, n), and the arguments of ``f`` if its derivative needs them."""

    @abstractmethod
    def gradients(
        self, x: Tensor, H: Tensor, Z: Tensor | None, gy: Tensor | None, gh: Tensor | None, needed: PerInput[bool]
    ) -> PerInput[Tensor | None]:
        """Return the needed gradients, and always the gradient of the first state.

        ``H`` and ``Z`` are the results of `states`. ``gy`` (T, B, n), with any strides, has the gradients of the states
        after the first. ``gh`` (B, n) is another gradient of the last state. One of the two may be None.
        """


def run_engine(
    engine: type[Engine], form: ElmanForm, x: Tensor, h0: Tensor, W: Tensor, every_step: bool, recompute: bool
) -> tuple[Tensor | None, Tensor]:
    r"""Return all states (or None) and the last one.

    With ``recompute``, about :math:`\sqrt T` states are kept for the backward pass, which computes the others again.
    """
    if h0.numel() == 0 or x.numel() == 0:  # engines need not handle empty tensors
        y = plain_states(form, x, h0, W)
        return y if every_step else None, y[-1]
    chunk = math.isqrt(len(x) - 1) + 1 if recompute and not every_step else len(x)
    inputs = PerInput(x, form.weight_ih, form.bias, form.threshold, W, h0)
    y, h = _Run.apply(engine, form.activation, chunk, every_step, *inputs)
    return y, h


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, engine: type[Engine], activation: Activation, chunk: int, every_step: bool, *inputs: Any
    ) -> tuple[Tensor | None, Tensor]:
        x, V, b, threshold, W, h = PerInput(*inputs)
        ctx.set_materialize_grads(False)
        ctx.engine, ctx.activation, ctx.chunk = engine, activation, chunk
        run, starts = engine(ElmanForm(activation, V, b, threshold), W), []
        for part in x.split(chunk):
            starts.append(h)
            H, Z = run.states(part, h)
            h = H[-1].clone()
        whole = (H, Z) if len(starts) == 1 else (None, None)
        ctx.save_for_backward(x, V, b, threshold, W, *whole, *starts)
        return H[1:] if every_step else None, h

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, gh: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # read once, because a checkpoint returns them only once
        with without_autocast(saved[0]):
            return (None, None, None, None, *_gradients(ctx, saved, gy, gh))


def _gradients(ctx: Any, saved: Any, gy: Tensor | None, gh: Tensor | None) -> PerInput[Tensor | None]:
    """Return the gradients of all inputs, chunk by chunk from the last to the first."""
    (x, V, b, threshold, W, H, Z), starts = saved[:7], saved[7:]
    needed = PerInput(*ctx.needs_input_grad[4:])
    if torch.is_grad_enabled() or batched(gy, gh):
        inputs = PerInput(x, V, b, threshold, W, starts[0])
        return _differentiable_gradients(ctx.activation, inputs, needed, gy, gh)
    run = ctx.engine(ElmanForm(ctx.activation, V, b, threshold), W)
    x_gradients: list[Tensor | None] = []
    total: PerInput[Tensor | None] | None = None
    end = len(x)
    for start, part in zip(reversed(starts), reversed(x.split(ctx.chunk)), strict=True):
        if len(starts) > 1:
            H, Z = run.states(part, start)
        begin = end - len(part)
        gradients = run.gradients(part, H, Z, None if gy is None else gy[begin:end], gh, needed)
        x_gradients.append(gradients.x)
        gh, end = gradients.h0, begin
        if total is None:
            total = gradients
        else:
            _add_weight_gradients(total, gradients)
    assert total is not None
    parts = [g for g in reversed(x_gradients) if g is not None]
    return total._replace(
        x=torch.cat(parts) if len(parts) > 1 else next(iter(parts), None), h0=gh if needed.h0 else None
    )


def _add_weight_gradients(total: PerInput[Tensor | None], term: PerInput[Tensor | None]) -> None:
    """Add the gradients of the weights to the total, in place. If one is not needed, both are None."""
    for a, b in zip(total[1:5], term[1:5], strict=True):
        if a is not None and b is not None:
            a.add_(b)


def _differentiable_gradients(
    activation: Activation,
    inputs: PerInput[Tensor | None],
    needed: PerInput[bool],
    gy: Tensor | None,
    gh: Tensor | None,
) -> PerInput[Tensor | None]:
    """Return the gradients by the plain loop. They can be differentiated again, or mapped over."""

    def states(
        x: Tensor, V: Tensor | None, b: Tensor | None, threshold: Tensor | None, W: Tensor, h0: Tensor
    ) -> tuple[Tensor, Tensor]:
        y = plain_states(ElmanForm(activation, V, b, threshold), x, h0, W)
        return y, y[-1]

    return PerInput(*gradients_by_autograd(states, inputs, needed, (gy, gh)))


def plain_states(form: ElmanForm, x: Tensor, h0: Tensor, W: Tensor) -> Tensor:
    """Return the states after each step, (T, B, n), by the plain loop. Every engine is compared with it."""
    f, h, states = kernel(form.activation, form.threshold, h0), h0, []
    for u in form.project(x).unbind(0):
        h = f.function(u + h @ W.mT)
        states.append(h)
    return torch.stack(states)


def state_buffers(x: Tensor, h0: Tensor, *, keeps_argument: bool) -> tuple[Tensor, Tensor]:
    """Return a buffer of states (T + 1, B, n) that starts with ``h0``, and one of projected inputs (T, B, n).

    The projected inputs share the memory of the later states. With ``keeps_argument``, they have a separate buffer, in
    which the arguments of ``f`` overwrite them.
    """
    H = h0.new_empty(len(x) + 1, *h0.shape)
    H[0] = h0
    return H, h0.new_empty(len(x), *h0.shape) if keeps_argument else H[1:]


def project_into(x: Tensor, V: Tensor | None, b: Tensor | None, out: Tensor) -> None:
    """Write ``V x + b`` for some steps to ``out``, (T, B, n)."""
    rows = out.view(-1, out.shape[-1])  # (T B, n)
    if V is None:
        out.copy_(x)
    elif b is None:
        torch.mm(x.reshape(len(rows), -1), V.mT, out=rows)
    else:
        torch.addmm(b, x.reshape(len(rows), -1), V.mT, out=rows)
