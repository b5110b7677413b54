"""Parameters without a manifold, which functions of torch.optim update in one call."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

State = dict[str, Any]
_DEVICES = ("cpu", "cuda")
_KINDS = (Tensor, torch.nn.Parameter)  # subclasses may override operations


@dataclass
class Plain:
    """Plain parameters of one group, device and dtype, and their optimizer states in the form of torch's functions.

    The states are stored as by `Batch`, so both can use the same checkpoint. The number of steps is an integer (a
    tensor if nothing may be read from the device), and complex moments are pairs of reals.

    Attributes
    ----------
    fused : bool
        Whether torch's fused implementation is used, instead of its foreach implementation.
    """

    fused: bool
    params: list[Tensor] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    _steps: list[Tensor] = field(default_factory=list)  # the last result of `steps`
    _counts: list[int] = field(default_factory=list)  # the values of these tensors after torch has counted
    _held: dict[str, list[Tensor]] = field(default_factory=dict)  # the moments of the last step

    def is_unchanged(self) -> bool:
        """Return whether the moments are those of the last step; torch's functions do not check their shapes."""
        return all(all(map(operator.is_, self._found(name), held)) for name, held in self._held.items())

    def gradients(self) -> list[Tensor]:
        """Return the gradients from autograd."""
        return [p.grad for p in self.params if p.grad is not None]

    def values(self) -> list[Tensor]:
        """Return the parameters, complex ones as pairs of reals."""
        return [torch.view_as_real(p.detach()) if p.is_complex() else p for p in self.params]

    def slopes(self) -> list[Tensor]:
        """Return the gradients in the form of `values`; a fused step needs memory without gaps."""
        reals = [torch.view_as_real(g.resolve_conj()) if g.is_complex() else g for g in self.gradients()]
        return [g if g.is_contiguous() else g.contiguous() for g in reals] if self.fused else reals

    def moments(self, name: str, start: float = 0.0) -> list[Tensor]:
        """Return the named state of each parameter, filled with ``start`` if it does not exist yet."""
        if any(name not in s for s in self.states):
            for s, p in zip(self.states, self.values(), strict=True):
                s.setdefault(name, torch.full_like(p, start))
        return self.hold(name)

    def hold(self, name: str) -> list[Tensor]:
        """Return the named state of each parameter, and store it for `is_unchanged`."""
        self._held[name] = [s[name] for s in self.states]
        return self._held[name]

    def _found(self, name: str) -> list[Tensor | None]:
        return [s.get(name) for s in self.states]

    def steps(self, *, on_device: bool = False) -> list[Tensor]:
        """Return the numbers of steps before this one. Torch's function adds 1 to each; call `count` after it."""
        if on_device:
            for p, s in zip(self.params, self.states, strict=True):
                s["step"] = torch.as_tensor(s.get("step", 0), dtype=torch.float32, device=p.device)
            return [s["step"] for s in self.states]
        counts = [s.get("step", 0) for s in self.states]
        if counts != self._counts:  # at the first step, and after a load
            counts = list(map(int, counts))
            places = [p.device if self.fused else None for p in self.params]
            self._steps = [torch.tensor(float(n), device=d) for n, d in zip(counts, places, strict=True)]
        self._counts = [n + 1 for n in counts]
        return self._steps

    def common_step(self) -> list[Tensor] | None:
        """Return the number of this step as one tensor for all; None if they differ or are on the device.

        Torch then need not count every parameter, which takes as long as a fused step of small parameters.
        """
        first = self.states[0].get("step", 0)
        if isinstance(first, Tensor) or any(s.get("step", 0) != first for s in self.states):
            return None
        return [torch.full((), first + 1.0, dtype=torch.float32, device=self.params[0].device)] * len(self.params)

    def count(self, *, on_device: bool = False) -> None:
        """Count the step in the states; torch has already counted tensors."""
        for s in () if on_device else self.states:
            s["step"] = int(s.get("step", 0)) + 1


def form(p: Tensor, *, constrained: bool) -> Hashable:
    """Return everything on which the way of updating a parameter depends and which ``p.data = x`` changes.

    The compiled steps of constrained weights support any strides. `joined` only needs to know whether memory is
    contiguous, which torch checks faster.
    """
    try:
        memory: Hashable = p.stride() if constrained else p.is_contiguous()
    except RuntimeError:  # sparse tensors
        memory = p.layout
    return p.shape, p.dtype, p.device, memory


def joined(p: Tensor, state: Mapping[str, Any], fused_on: tuple[str, ...]) -> bool | None:
    """Return True if torch updates a plain parameter fused, False if foreach, None if it is updated separately."""
    device = p.device.type
    if type(p) not in _KINDS or device not in _DEVICES or not (p.is_floating_point() or p.is_complex()):
        return None
    if p.is_conj() or p.is_neg():  # views of its numbers cannot be written
        return None
    moments = [s for name, s in state.items() if isinstance(s, Tensor) and name != "step"]
    if p.layout != torch.strided or p.grad is None or p.grad.shape != p.shape:
        return None
    shape = (*p.shape, 2) if p.is_complex() else p.shape  # torch's fused functions write past smaller moments
    if any(s.shape != shape or s.dtype != p.dtype.to_real() or s.device != p.device for s in moments):
        return None
    return device in fused_on and all(x.is_contiguous() for x in (p, *moments))
