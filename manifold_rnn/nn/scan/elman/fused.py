"""A scan with its own backward pass: one buffer of states, work in place, no graph of steps."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from ...._torch import is_watched
from ...cells.base import Form
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
        with _cheap_calls(x, h0, self.W):
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
        f, first = kernel(self.activation, self.threshold, H[0]), torch.empty_like(H[0])
        back = _Backward(f, products(self.W, H.shape[1]), H, Z, gy, gh)
        sums = _Sums(f, self, x, H, needed)
        with _cheap_calls(x, H, self.W):
            for part in reversed(_parts(H)):
                sums.add(part, *back.through(part))
            first.copy_(back.to_first())
        return sums.found(first)


def _cheap_calls(*tensors: Tensor) -> AbstractContextManager[object]:
    """Context in which calls cost a little less. What is made in it may be neither saved nor returned."""
    return contextlib.nullcontext() if is_watched(*tensors) else torch.inference_mode()


def _parts(H: Tensor) -> list[slice]:
    """The time in parts, of so few steps that their states should stay in the cache."""
    T, size = len(H) - 1, max(1, H[0].numel() * H.element_size())
    R = min(T, max(_PART_STEPS[0], min(_PART_STEPS[1], _PART_BYTES // size)))
    return [slice(start, min(start + R, T)) for start in range(0, T, R)]


def _total_dtype(x: Tensor) -> torch.dtype:
    """The dtype of sums over all steps, which would overflow or stall in half precision."""
    return torch.promote_types(x.dtype, torch.float32)


class _Backward:
    """The gradients of the arguments of ``f``, in one part of the time after the other, the last one first."""

    def __init__(
        self, f: Kernel, by: Products, H: Tensor, Z: Tensor | None, gy: Tensor | None, gh: Tensor | None
    ) -> None:
        self.f, self.by, self.h, self.z, self.gh = f, by, H[1:], H[1:] if Z is None else Z, gh
        self.outside: Sequence[Tensor | None] = (None,) * len(self.h) if gy is None else gy.unbind(0)
        self.ring = torch.empty_like(H[_parts(H)[0]])
        self.slots = self.ring.unbind(0)
        self.after: Tensor | None = None  # the gradient of the argument of the step after the part
        self.carry = torch.empty_like(H[0])
        self.slopes = torch.empty_like(self.ring) if f.has_slopes and _is_without_nan(H) else None
        self.factors = self.slopes.unbind(0) if self.slopes is not None else ()

    def through(self, part: slice) -> tuple[Tensor, Tensor]:
        """The gradients of a part, (R, B, n), until the next call, and their sum over steps and rows."""
        h = self.h[part]
        total = None
        if self.slopes is not None:
            self.f.slopes(h, self.slopes[: len(h)])
            total = self._fill(part, lambda g, t, slot: torch.mul(g, self.factors[t], out=slot))
        if total is None or not bool(total.sum().isfinite()):  # infinity times a slope of zero has to be zero
            states, arguments = h.unbind(0), self.z[part].unbind(0)
            total = self._fill(part, lambda g, t, slot: self.f.backward(g, arguments[t], states[t], slot))
        self.after = self.carry.copy_(self.slots[0])  # whose slot may be that of the next step
        return self.ring[: len(h)], total

    def _fill(self, part: slice, write: Callable[[Tensor, int, Tensor], object]) -> Tensor:
        """Go back through a part; ``write`` makes of the gradient of a state that of its argument."""
        after, outside = self.after, self.outside[part]
        for t in reversed(range(len(outside))):
            slot = self.slots[t]
            g = self.by.back(outside[t], after, slot) if after is not None else _sum_into(slot, self.gh, outside[t])
            write(g, t, slot)
            after = slot
        return self.ring[: len(outside)].sum((0, 1), dtype=_total_dtype(self.ring))

    def to_first(self) -> Tensor:
        """The gradient of the state before the first step."""
        assert self.after is not None
        return self.by.back(None, self.after, torch.empty_like(self.after))


def _is_without_nan(H: Tensor) -> bool:
    """Whether no state is known to be NaN: a row of the batch that has one passes it on, as NaN times zero is NaN."""
    return can_look_at(H) and not bool(H[-1].isnan().any())


def _sum_into(slot: Tensor, a: Tensor | None, b: Tensor | None) -> Tensor:
    slot.zero_()
    for g in (a, b):
        if g is not None:
            slot.add_(g)
    return slot


class _Sums:
    """The gradients of everything but the states; those of the weights are summed up over parts of the time."""

    def __init__(self, f: Kernel, engine: Engine, x: Tensor, H: Tensor, needed: tuple[bool, ...]) -> None:
        self.f, self.x, self.H = f, x, H
        self.weights = engine.V, engine.b, engine.threshold, engine.W
        self.gx = H.new_empty(x.shape) if needed[0] else None
        self.V, self.b, self.threshold, self.W = (
            torch.zeros_like(p, dtype=_total_dtype(p)) if p is not None and wanted else None
            for p, wanted in zip(self.weights, needed[1:5], strict=True)
        )

    def add(self, part: slice, d: Tensor, total: Tensor) -> None:
        """Add what the gradients ``d`` of the arguments of some steps, and their sum, contribute."""
        rows = _rows(d)
        if self.W is not None:
            add_outer(self.W, rows, _rows(self.H[:-1][part]))
        if self.V is not None:
            add_outer(self.V, rows, _rows(self.x[part]))
        if self.b is not None:
            self.b.add_(total)
        if self.threshold is not None:
            self.threshold.add_(self.f.threshold_gradient(rows, _rows(self.H[1:][part])))
        if self.gx is not None:
            V = self.weights[0]
            self.gx[part] = d if V is None else d @ V.conj()

    def found(self, gh: Tensor) -> Gradients:
        """All of them, in the dtypes of what they are of."""
        sums = zip((self.V, self.b, self.threshold, self.W), self.weights, strict=True)
        return self.gx, *(None if s is None or p is None else s.to(p.dtype) for s, p in sums), gh


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).to(_total_dtype(x))
