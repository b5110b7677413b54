"""A scan with its own backward pass: one buffer of states, work in place, no graph of steps."""

import math
from typing import Any

import torch
from torch import Tensor

from ...linalg.precision import batched, without_autocast
from ..cells.base import Form
from .kernels import Kernel, kernel
from .products import add_outer, products

_RING_BYTES = 1 << 19  # of gradients that are kept at a time: they should still be in cache when they are summed up
_RING_STEPS = 8, 64


def fused(
    form: Form, x: Tensor, h0: Tensor, W: Tensor, *, every_step: bool = True, recompute: bool = False
) -> tuple[Tensor | None, Tensor]:
    r"""Run a recurrence :math:`h_t = f(W h_{t-1} + V x_t + b)` with a backward pass of its own.

    Backward it is :math:`\delta_t = f'(h_t) \circ (g_t + W^{\mathsf H}\delta_{t+1})`, in a ring of a few steps, from
    which the gradients of ``W``, ``V`` and the biases are summed up as products over many steps at a time.

    Parameters
    ----------
    form : Form
        ``f``, ``V`` and the biases.
    x : Tensor, shape (T, B, m), T >= 1
        Inputs, of the dtype of the weights; of shape (T, B, n) if the form has no ``V``.
    h0 : Tensor, shape (B, n)
        State before the first step.
    W : Tensor, shape (n, n)
        Recurrent matrix.
    every_step : bool
        Whether all states are wanted, or the last one alone.
    recompute : bool
        Without ``every_step``: keep one in about :math:`\sqrt T` states, and compute the others again in the backward
        pass.

    Returns
    -------
    y : Tensor, shape (T, B, n), or None
    h : Tensor, shape (B, n)
        The last state.

    Notes
    -----
    For a derivative of the gradient the plain loop is run instead. Not for ``torch.func`` and ``torch.compile``. ``y``
    is a view of the states that the backward pass needs: torch refuses to change it in place.

    Examples
    --------
    >>> cell = mr.nn.cells.Elman("relu", bias=False).bind({"weight_ih": torch.ones(1, 1)})
    >>> y, h = mr.nn.scan.fused(cell.form(), torch.ones(3, 2, 1), torch.zeros(2, 1), torch.ones(1, 1))
    >>> assert torch.equal(y[:, 0, 0], torch.tensor([1.0, 2.0, 3.0])) and torch.equal(h, y[-1])
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
        ctx.activation, ctx.chunk, f = activation, chunk, kernel(activation, threshold, h0)
        starts, h = [], h0
        for part in x.split(chunk):
            starts.append(h)
            H, Z = _states(f, part, V, b, W, h)
            h = H[-1].clone()
        whole = (H, Z) if len(starts) == 1 else (None, None)
        ctx.save_for_backward(x, V, b, threshold, W, *whole, *starts)
        return H[1:] if every_step else None, h

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, gh: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: a checkpoint gives them out a single time
        with without_autocast(saved[0]):
            return (None, None, None, *_gradients(ctx, saved, gy, gh))


def _gradients(ctx: Any, saved: Any, gy: Tensor | None, gh: Tensor | None) -> tuple[Tensor | None, ...]:
    x, V, b, threshold, W, H, Z, *starts = saved
    needed, inputs = ctx.needs_input_grad[3:], (x, V, b, threshold, W, starts[0])
    if torch.is_grad_enabled() or batched(gy, gh):
        return _again(ctx.activation, inputs, needed, gy, gh)
    f = kernel(ctx.activation, threshold, starts[0])  # its own for each pass, as it keeps sums
    sums = _Sums(needed, inputs)
    d: Tensor | None = gh
    ends = len(x)
    for start, part in zip(reversed(starts), reversed(x.split(ctx.chunk)), strict=True):
        if len(starts) > 1:
            H, Z = _states(f, part, V, b, W, start)
        begin = ends - len(part)
        d = _reverse(f, sums, part, W, H, Z, None if gy is None else gy[begin:ends], d)
        ends = begin
    assert d is not None
    return sums.found(d)


def _states(
    f: Kernel, x: Tensor, V: Tensor | None, b: Tensor | None, W: Tensor, h0: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The states from ``h0`` on, (T + 1, B, n), and what `f` was applied to where its derivative needs that."""
    T, B, n = len(x), *h0.shape
    H = h0.new_empty(T + 1, B, n)
    H[0] = h0
    Z = h0.new_empty(T, B, n) if f.keeps_argument else None
    first = H[1:] if Z is None else Z
    flat = first.view(T * B, n)
    if V is None:
        first.copy_(x)
    elif b is None:
        torch.mm(x.reshape(T * B, -1), V.mT, out=flat)
    else:
        torch.addmm(b, x.reshape(T * B, -1), V.mT, out=flat)
    states, arguments, by = H.unbind(0), first.unbind(0), products(W, B)
    for before, z, h in zip(states, arguments if f.keeps_argument else states[1:], states[1:], strict=False):
        f.apply(by.onward(z, before), h)
    return H, Z


def _reverse(
    f: Kernel, sums: "_Sums", x: Tensor, W: Tensor, H: Tensor, Z: Tensor | None, gy: Tensor | None, d: Tensor | None
) -> Tensor:
    """Run back over some steps, given the gradient ``d`` of their last state from later on; that of their first."""
    T, B, n = len(x), *H.shape[1:]
    size = max(1, B * n * H.element_size())
    R = min(T, max(_RING_STEPS[0], min(_RING_STEPS[1], _RING_BYTES // size)))
    ring, carry, by = H.new_empty(R, B, n), H.new_empty(B, n), products(W, B)
    slots, states = ring.unbind(0), H.unbind(0)
    arguments = states[1:] if Z is None else Z.unbind(0)
    outside = None if gy is None else gy.unbind(0)
    after: Tensor | None = None
    for end in range(T, 0, -R):
        start = max(0, end - R)
        for t in range(end - 1, start - 1, -1):
            slot, g = slots[t - start], None if outside is None else outside[t]
            total = by.back(g, after, slot) if after is not None else _sum_into(slot, d, g)
            f.backward(total, arguments[t], states[t + 1], slot)
            after = slot
        part = slice(start, end)
        sums.add(f, ring[: end - start], x[part], H[part], H[start + 1 : end + 1], None if Z is None else Z[part])
        after = carry.copy_(slots[0])  # whose slot may be that of the next step
    assert after is not None
    return by.back(None, after, torch.empty_like(after))


def _sum_into(slot: Tensor, a: Tensor | None, b: Tensor | None) -> Tensor:
    slot.zero_()
    for g in (a, b):
        if g is not None:
            slot.add_(g)
    return slot


class _Sums:
    """The gradients of everything but the states, summed up over parts of the time."""

    def __init__(self, needed: tuple[bool, ...], inputs: tuple[Tensor | None, ...]) -> None:
        self.needed = needed
        self.x: list[Tensor] = []
        self.V, self.b, self.threshold, self.W = (
            torch.zeros_like(p) if p is not None and wanted else None
            for p, wanted in zip(inputs[1:5], needed[1:5], strict=True)
        )
        self.weight_ih = inputs[1]

    def add(self, f: Kernel, d: Tensor, x: Tensor, before: Tensor, h: Tensor, z: Tensor | None) -> None:
        """Add what the masked gradients ``d`` of some steps contribute."""
        n = d.shape[-1]
        flat = d.reshape(-1, n)
        if self.W is not None:
            add_outer(self.W, flat, before.reshape(-1, n))
        if self.V is not None:
            add_outer(self.V, flat, x.reshape(-1, x.shape[-1]))
        if self.b is not None:
            self.b.add_(flat.sum(0))
        if self.threshold is not None:
            self.threshold.add_(f.threshold_gradient(flat, h.reshape(-1, n), None if z is None else z.reshape(-1, n)))
        if self.needed[0]:
            self.x.append(d.clone() if self.weight_ih is None else d @ self.weight_ih.conj())

    def found(self, gh0: Tensor) -> tuple[Tensor | None, ...]:
        gx = torch.cat(self.x[::-1]) if self.x else None
        return gx, self.V, self.b, self.threshold, self.W, gh0 if self.needed[5] else None


def _again(
    activation: str, inputs: tuple[Tensor | None, ...], needed: tuple[bool, ...], gy: Tensor | None, gh: Tensor | None
) -> tuple[Tensor | None, ...]:
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
    """All states, (T, B, n), by the loop that `fused` must equal."""
    f, h, states = kernel(form.activation, form.threshold, h0), h0, []
    for u in form.project(x).unbind(0):
        h = f.function(u + h @ W.mT)
        states.append(h)
    return torch.stack(states)
