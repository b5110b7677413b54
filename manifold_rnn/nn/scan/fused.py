"""A scan with its own backward pass: one buffer of states, work in place, no graph of steps."""

import torch
from torch import Tensor

from ..cells.base import Form
from .engine import Engine, Gradients, project, run_form, state_buffers
from .kernels import Kernel, can_look_at, kernel
from .products import Products, add_outer, products

_PART_BYTES = 1 << 19  # of states, or gradients, that are worked on at a time: they should stay in the cache
_PART_STEPS = 8, 64


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
    def states(self, x: Tensor, h0: Tensor) -> tuple[Tensor, Tensor | None]:
        f, by = kernel(self.activation, self.threshold, h0), products(self.W, h0.shape[0])
        H, U = state_buffers(x, h0, f.keeps_argument)
        with torch.inference_mode():  # every call is a little cheaper
            h, states = H[0], H[1:].unbind(0)
            arguments = U.unbind(0) if f.keeps_argument else states
            for part in _parts(H):
                project(x[part], self.V, self.b, U[part])  # which is still in cache when the steps come to it
                for z, after in zip(arguments[part], states[part], strict=True):
                    f.apply(by.onward(z, h), after)
                    h = after
        return H, U if f.keeps_argument else None

    def gradients(
        self, x: Tensor, H: Tensor, Z: Tensor | None, gy: Tensor | None, gh: Tensor | None, needed: tuple[bool, ...]
    ) -> Gradients:
        f, sums, first = kernel(self.activation, self.threshold, H[0]), _Sums(needed, self), torch.empty_like(H[0])
        back = _Backward(f, products(self.W, H.shape[1]), H, Z, gy, gh)
        with torch.inference_mode():
            for part in reversed(_parts(H)):
                d, total = back.through(part)
                sums.add(f, d, total, x[part], H[:-1][part], H[1:][part], None if Z is None else Z[part])
            first.copy_(back.to_first())
        return sums.found(first)


def _parts(H: Tensor) -> list[slice]:
    """The time in parts, of so few steps that their states should stay in the cache."""
    T, size = len(H) - 1, max(1, H[0].numel() * H.element_size())
    R = min(T, max(_PART_STEPS[0], min(_PART_STEPS[1], _PART_BYTES // size)))
    return [slice(start, min(start + R, T)) for start in range(0, T, R)]


class _Backward:
    """The gradients of the arguments of ``f``, in one part of the time after the other, the last one first."""

    def __init__(
        self, f: Kernel, by: Products, H: Tensor, Z: Tensor | None, gy: Tensor | None, gh: Tensor | None
    ) -> None:
        self.f, self.by, self.H, self.Z, self.gh = f, by, H, Z, gh
        self.outside = (None,) * (len(H) - 1) if gy is None else gy.unbind(0)
        self.ring = torch.empty_like(H[_parts(H)[0]])
        self.slots = self.ring.unbind(0)
        self.after: Tensor | None = None  # the gradient of the argument of the step after the part
        self.carry = torch.empty_like(H[0])
        has_slopes = f.has_slopes and can_look_at(H) and not bool(H[-1].isnan().any())  # a row with NaN keeps it
        self.slopes = torch.empty_like(self.ring) if has_slopes else None
        self.factors = self.slopes.unbind(0) if self.slopes is not None else ()

    def through(self, part: slice) -> tuple[Tensor, Tensor]:
        """The gradients of a part, (R, B, n), until the next call, and their sum over steps and rows."""
        R = part.stop - part.start
        d = self.ring[:R]
        total = None
        if self.slopes is not None:
            self.f.slopes(self.H[1:][part], self.slopes[:R])
            self._fill_by_slopes(part)
            total = d.sum((0, 1))
        if total is None or not bool(total.sum().isfinite()):  # where infinity times zero has to be zero
            self._fill(part)
            total = d.sum((0, 1))
        self.after = self.carry.copy_(self.slots[0])  # whose slot may be that of the next step
        return d, total

    def _fill(self, part: slice) -> None:
        h = self.H[1:][part].unbind(0)
        z = h if self.Z is None else self.Z[part].unbind(0)
        after = self.after
        for t in reversed(range(len(h))):
            slot = self.slots[t]
            self.f.backward(self._onto(self.outside[part.start + t], after, slot), z[t], h[t], slot)
            after = slot

    def _fill_by_slopes(self, part: slice) -> None:
        after = self.after
        steps = zip(self.slots, self.factors, self.outside[part], strict=False)
        for slot, factor, g in reversed(list(steps)):
            total = self._onto(g, after, slot)
            if total is slot:
                slot.mul_(factor)
            else:
                torch.mul(total, factor, out=slot)
            after = slot

    def _onto(self, g: Tensor | None, after: Tensor | None, slot: Tensor) -> Tensor:
        """The gradient of a state, in ``slot`` or not: of ``g`` from outside, and of what came ``after``."""
        return _sum_into(slot, self.gh, g) if after is None else self.by.back(g, after, slot)

    def to_first(self) -> Tensor:
        """The gradient of the state before the first step."""
        assert self.after is not None
        return self.by.back(None, self.after, torch.empty_like(self.after))


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

    def add(self, f: Kernel, d: Tensor, total: Tensor, x: Tensor, before: Tensor, h: Tensor, z: Tensor | None) -> None:
        """Add what the gradients ``d`` of the arguments of some steps, and their sum ``total``, contribute."""
        n = d.shape[-1]
        flat = d.reshape(-1, n)
        if self.W is not None:
            add_outer(self.W, flat, before.reshape(-1, n))
        if self.V is not None:
            add_outer(self.V, flat, x.reshape(-1, x.shape[-1]))
        if self.b is not None:
            self.b.add_(total)
        if self.threshold is not None:
            self.threshold.add_(f.threshold_gradient(flat, h.reshape(-1, n), None if z is None else z.reshape(-1, n)))
        if self.needs_x:
            self.x.append(d.clone() if self.weight_ih is None else d @ self.weight_ih.conj())

    def found(self, gh: Tensor) -> Gradients:
        return torch.cat(self.x[::-1]) if self.x else None, self.V, self.b, self.threshold, self.W, gh
