"""A scan with its own backward pass: one buffer of states, work in place, no graph of steps."""

from typing import Any

import torch
from torch import Tensor

from ..cells.base import Form
from .engine import Engine, Gradients, run_form, state_buffers
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
    return run_form(_Fused, form, x, h0, W, every_step, recompute)


class _Fused(Engine):
    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.f: Kernel | None = None

    def states(self, x: Tensor, h0: Tensor) -> tuple[Tensor, Tensor | None]:
        f = self._kernel(h0)
        H, U = state_buffers(x, h0, self.V, self.b, f.keeps_argument)
        states, arguments, by = H.unbind(0), U.unbind(0), products(self.W, h0.shape[0])
        for before, z, h in zip(states, arguments if f.keeps_argument else states[1:], states[1:], strict=False):
            f.apply(by.onward(z, before), h)
        return H, U if f.keeps_argument else None

    def gradients(
        self, x: Tensor, H: Tensor, Z: Tensor | None, gy: Tensor | None, gh: Tensor | None, needed: tuple[bool, ...]
    ) -> Gradients:
        sums = _Sums(needed, self)
        self._kernel(H[0]).look_at(H[-1])
        return sums.found(_reverse(self._kernel(H[0]), sums, x, self.W, H, Z, gy, gh))

    def _kernel(self, like: Tensor) -> Kernel:
        if self.f is None:  # one for each pass, as it keeps sums
            self.f = kernel(self.activation, self.threshold, like)
        return self.f


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

    def __init__(self, needed: tuple[bool, ...], engine: Engine) -> None:
        self.needs_x, self.weight_ih = needed[0], engine.V
        self.x: list[Tensor] = []
        weights = engine.V, engine.b, engine.threshold, engine.W
        self.V, self.b, self.threshold, self.W = (
            torch.zeros_like(p) if p is not None and wanted else None
            for p, wanted in zip(weights, needed[1:5], strict=True)
        )

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
        if self.needs_x:
            self.x.append(d.clone() if self.weight_ih is None else d @ self.weight_ih.conj())

    def found(self, gh: Tensor) -> Gradients:
        return torch.cat(self.x[::-1]) if self.x else None, self.V, self.b, self.threshold, self.W, gh
