"""The backward pass of the fused scan, part by part from the last time step to the first."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ....linalg.precision import is_readable
from ...cells.elman_form import ElmanForm
from ...products import Products, add_outer
from .engine import PerInput
from .kernels import Kernel

_PART_BYTES = 1 << 19  # of the states of the steps that are computed together, so that they stay in the cache
_PART_STEPS = 8, 64  # smallest and largest number of these steps


def split_steps(H: Tensor) -> list[slice]:
    """Split the time steps into parts, whose states should fit into the cache."""
    T, step_bytes = len(H) - 1, max(1, H[0].numel() * H.element_size())
    R = min(T, max(_PART_STEPS[0], min(_PART_STEPS[1], _PART_BYTES // step_bytes)))
    return [slice(start, min(start + R, T)) for start in range(0, T, R)]


def _sum_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of sums over all steps. In half precision, they would overflow or lose small terms."""
    return torch.promote_types(x.dtype, torch.float32)


class BackwardPass:
    """The gradients of the arguments of ``f``, part by part from the last to the first."""

    def __init__(
        self, f: Kernel, product: Products, H: Tensor, Z: Tensor | None, gy: Tensor | None, gh: Tensor | None
    ) -> None:
        self.f, self.product, self.h, self.z, self.gh = f, product, H[1:], H[1:] if Z is None else Z, gh
        self.output_gradients: Sequence[Tensor | None] = (None,) * len(self.h) if gy is None else gy.unbind(0)
        self.buffer = torch.empty_like(H[split_steps(H)[0]])  # (R, B, n): the gradients of one part
        self.slots = self.buffer.unbind(0)
        self.next_gradient: Tensor | None = None  # (B, n): of the argument of the step after the part
        self.next_buffer = torch.empty_like(H[0])
        self.slopes = torch.empty_like(self.buffer) if f.has_slopes and _is_without_nan(H) else None
        self.factors = self.slopes.unbind(0) if self.slopes is not None else ()

    def run(self, part: slice) -> tuple[Tensor, Tensor]:
        """Return the gradients of a part, (R, B, n), valid until the next call, and their sum over steps and rows."""
        h = self.h[part]
        total = None
        if self.slopes is not None:
            self.f.slopes(h, self.slopes[: len(h)])
            total = self._fill(part, lambda g, t, slot: torch.mul(g, self.factors[t], out=slot))
        if total is None or not bool(total.sum().isfinite()):  # there, infinity times a slope of zero must be zero
            states, arguments = h.unbind(0), self.z[part].unbind(0)
            total = self._fill(part, lambda g, t, slot: self.f.backward(g, arguments[t], states[t], slot))
        self.next_gradient = self.next_buffer.copy_(self.slots[0])  # the next part overwrites the slot
        return self.buffer[: len(h)], total

    def _fill(self, part: slice, write: Callable[[Tensor, int, Tensor], object]) -> Tensor:
        """Run a part backward and return the sum. ``write`` applies the derivative of ``f``."""
        d, gy = self.next_gradient, self.output_gradients[part]
        for t in reversed(range(len(gy))):
            slot = self.slots[t]
            g = self.product.backward(gy[t], d, slot) if d is not None else _sum_into(slot, self.gh, gy[t])
            write(g, t, slot)
            d = slot
        return self.buffer[: len(gy)].sum((0, 1), dtype=_sum_dtype(self.buffer))

    def initial_state_gradient(self) -> Tensor:
        """Return the gradient of the state before the first step, (B, n)."""
        assert self.next_gradient is not None
        return self.product.backward(None, self.next_gradient, torch.empty_like(self.next_gradient))


def _is_without_nan(H: Tensor) -> bool:
    """Return whether no state is NaN. A NaN always reaches the last state of its row."""
    return is_readable(H) and not bool(H[-1].isnan().any())


def _sum_into(slot: Tensor, a: Tensor | None, b: Tensor | None) -> Tensor:
    """Write the sum of the tensors that are not None to ``slot``, and return it."""
    slot.zero_()
    for g in (a, b):
        if g is not None:
            slot.add_(g)
    return slot


class GradientSums:
    """The gradients of inputs and weights. Those of the weights are sums over all parts."""

    def __init__(self, f: Kernel, form: ElmanForm, W: Tensor, x: Tensor, H: Tensor, needed: PerInput[bool]) -> None:
        self.f, self.x, self.H = f, x, H
        self.weights = form.weight_ih, form.bias, form.threshold, W
        self.gx = H.new_empty(x.shape) if needed.x else None
        self.V, self.b, self.threshold, self.W = (
            torch.zeros_like(p, dtype=_sum_dtype(p)) if p is not None and wanted else None
            for p, wanted in zip(self.weights, needed[1:5], strict=True)
        )

    def add(self, part: slice, d: Tensor, total: Tensor) -> None:
        """Add the contribution of the gradients ``d`` (R, B, n) of the arguments of a part. ``total`` is their sum."""
        rows = _flatten_steps(d)  # (R B, n)
        if self.W is not None:
            add_outer(self.W, rows, _flatten_steps(self.H[:-1][part]))  # (n, n)
        if self.V is not None:
            add_outer(self.V, rows, _flatten_steps(self.x[part]))  # (n, m)
        if self.b is not None:
            self.b.add_(total)
        if self.threshold is not None:
            self.threshold.add_(self.f.threshold_gradient(rows, _flatten_steps(self.H[1:][part])))
        if self.gx is not None:
            V = self.weights[0]
            self.gx[part] = d if V is None else d @ V.conj()  # (R, B, m)

    def gradients(self, gh0: Tensor) -> PerInput[Tensor | None]:
        """Return all gradients, each in the dtype of its input."""
        sums = zip((self.V, self.b, self.threshold, self.W), self.weights, strict=True)
        V, b, threshold, W = (None if s is None or p is None else s.to(p.dtype) for s, p in sums)
        return PerInput(self.gx, V, b, threshold, W, gh0)


def _flatten_steps(x: Tensor) -> Tensor:
    """Return the rows of all steps, (R B, n), in the dtype of sums."""
    return x.reshape(-1, x.shape[-1]).to(_sum_dtype(x))
