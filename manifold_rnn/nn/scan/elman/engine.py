"""What the scans of cells with a form share: one autograd function, and the engines that work for it."""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ....linalg.precision import batched, without_autocast
from ...cells.base import Form
from .kernels import kernel

Gradients = tuple[Tensor | None, ...]  # of inputs, V, b, threshold, W, and of the state before the first step


class Engine(ABC):
    """A recurrence over some steps, forth and back; made for one pass."""

    def __init__(
        self, activation: str, V: Tensor | None, b: Tensor | None, threshold: Tensor | None, W: Tensor
    ) -> None:
        self.activation, self.V, self.b, self.threshold, self.W = activation, V, b, threshold, W

    @abstractmethod
    def states(self, x: Tensor, h0: Tensor) -> tuple[Tensor, Tensor | None]:
        """The states from ``h0`` on, (T + 1, B, n), and the arguments of ``f`` where its derivative needs them."""

    @abstractmethod
    def gradients(
        self, x: Tensor, H: Tensor, Z: Tensor | None, gy: Tensor | None, gh: Tensor | None, needed: tuple[bool, ...]
    ) -> Gradients:
        """Those that are needed, and always that of the first state.

        ``gy`` are the gradients of the states after it, of any strides, and ``gh`` is that of the last from elsewhere;
        one of them may be missing.
        """


def run_form(
    engine: type[Engine], form: Form, x: Tensor, h0: Tensor, W: Tensor, every_step: bool, recompute: bool
) -> tuple[Tensor | None, Tensor]:
    """All states or None, and the last one; to recompute is to keep one in about the root of T of them."""
    if h0.numel() == 0 or x.numel() == 0:  # which no buffer has to be filled for
        y = naive(form, x, h0, W)
        return y if every_step else None, y[-1]
    chunk = math.isqrt(len(x) - 1) + 1 if recompute and not every_step else len(x)
    inputs = (x, form.weight_ih, form.bias, form.threshold, W, h0)
    y, h = _Run.apply(engine, form.activation, chunk, every_step, *inputs)
    return y, h


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, engine: type[Engine], activation: str, chunk: int, every_step: bool, *inputs: Any
    ) -> tuple[Tensor | None, Tensor]:
        x, *weights, h = inputs
        ctx.set_materialize_grads(False)
        ctx.engine, ctx.activation, ctx.chunk = engine, activation, chunk
        run, starts = engine(activation, *weights), []
        for part in x.split(chunk):
            starts.append(h)
            H, Z = run.states(part, h)
            h = H[-1].clone()
        whole = (H, Z) if len(starts) == 1 else (None, None)
        ctx.save_for_backward(x, *weights, *whole, *starts)
        return H[1:] if every_step else None, h

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, gh: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: a checkpoint gives them out a single time
        with without_autocast(saved[0]):
            return (None, None, None, None, *_gradients(ctx, saved, gy, gh))


def _gradients(ctx: Any, saved: Any, gy: Tensor | None, gh: Tensor | None) -> Gradients:
    x, *weights, H, Z = saved[:7]
    starts, needed = saved[7:], ctx.needs_input_grad[4:]
    if torch.is_grad_enabled() or batched(gy, gh):
        return _again(ctx.activation, (x, *weights, starts[0]), needed, gy, gh)
    run = ctx.engine(ctx.activation, *weights)
    gx: list[Tensor | None] = []
    total: list[Tensor | None] = []
    end = len(x)
    for start, part in zip(reversed(starts), reversed(x.split(ctx.chunk)), strict=True):
        if len(starts) > 1:
            H, Z = run.states(part, start)
        begin = end - len(part)
        g, *shares, gh = run.gradients(part, H, Z, None if gy is None else gy[begin:end], gh, needed)
        gx.append(g)
        total = [a if a is None else a.add_(b) for a, b in zip(total, shares, strict=True)] if total else shares
        end = begin
    found = [g for g in reversed(gx) if g is not None]
    return (torch.cat(found) if len(found) > 1 else next(iter(found), None)), *total, gh if needed[5] else None


def _again(
    activation: str, inputs: tuple[Tensor | None, ...], needed: tuple[bool, ...], gy: Tensor | None, gh: Tensor | None
) -> Gradients:
    """The gradients as functions that can be differentiated, or mapped: those of the plain loop."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # an input may depend on another: as views of their own, each has its own part of the gradient
        x, V, b, threshold, W, h0 = aliases = [None if p is None else p.view_as(p) for p in inputs]
        y = naive(Form(activation, V, b, threshold), x, h0, W)  # type: ignore[arg-type]
        pairs = [(out, g) for out, g in ((y, gy), (y[-1], gh)) if g is not None]
        wanted = [p for p, w in zip(aliases, needed, strict=True) if w and p is not None]
        if not pairs or not wanted:
            return (None,) * len(inputs)
        outputs, gradients = zip(*pairs, strict=True)
        got = torch.autograd.grad(outputs, wanted, gradients, create_graph=create_graph, allow_unused=True)
    found = iter(got)
    return tuple(next(found) if w and p is not None else None for p, w in zip(aliases, needed, strict=True))


def naive(form: Form, x: Tensor, h0: Tensor, W: Tensor) -> Tensor:
    """All states, (T, B, n), by the loop that every engine must equal."""
    f, h, states = kernel(form.activation, form.threshold, h0), h0, []
    for u in form.project(x).unbind(0):
        h = f.function(u + h @ W.mT)
        states.append(h)
    return torch.stack(states)


def state_buffers(x: Tensor, h0: Tensor, keeps: bool) -> tuple[Tensor, Tensor]:
    """Room for states (T + 1, B, n), ``h0`` the first, and for projected inputs (T, B, n) in the place of the others.

    If arguments are to be kept, which will overwrite the projected inputs, those have a buffer of their own.
    """
    H = h0.new_empty(len(x) + 1, *h0.shape)
    H[0] = h0
    return H, h0.new_empty(len(x), *h0.shape) if keeps else H[1:]


def project(x: Tensor, V: Tensor | None, b: Tensor | None, out: Tensor) -> None:
    """Write ``V x + b`` of some steps to ``out``, (T, B, n)."""
    rows = out.view(-1, out.shape[-1])
    if V is None:
        out.copy_(x)
    elif b is None:
        torch.mm(x.reshape(len(rows), -1), V.mT, out=rows)
    else:
        torch.addmm(b, x.reshape(len(rows), -1), V.mT, out=rows)
