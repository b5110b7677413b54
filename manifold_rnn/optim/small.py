"""Steps of orthogonal weights of at most 256 rows: one compiled call computes a batch, another one writes it.

They agree with the implementation in torch up to rounding. Steps that are too long for them use that implementation.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .. import retractions
from .._kernels.small import RETRACTIONS, RULES, lies_by_columns
from .._torch import has_dispatch_mode
from ..manifolds import Orthogonal, SpecialOrthogonal
from .batch import Batch
from .preconditions import is_like

_GROUPS = (Orthogonal, SpecialOrthogonal)  # subclasses may override the retraction
_MAPS = (retractions.Exponential, retractions.Cayley, retractions.QR, retractions.Polar)


class SmallRule(NamedTuple):
    """A compiled rule: its name, the names of its moments, and its numbers."""

    name: str
    moments: tuple[str, ...]
    numbers: tuple[float, ...]


Choose: TypeAlias = Callable[[dict[str, Any], int], SmallRule | None]  # maps options and number of the step to a rule


def momentum_rule(group: dict[str, Any], steps: int) -> SmallRule | None:
    """Return the rule of `RiemannianSGD`."""
    if not (momentum := group["momentum"]):
        return SmallRule("descent", (), ())
    fresh = 1.0 if steps == 1 else 1 - group["dampening"]
    return SmallRule("momentum", ("momentum_buffer",), (momentum, fresh, float(group["nesterov"])))


def adam_rule(group: dict[str, Any], steps: int) -> SmallRule | None:
    """Return the rule of `RiemannianAdam`, or None for its variants."""
    if group["amsgrad"] or group["second_moment"] != "elementwise" or group["scale"] is not None:
        return None
    beta1, beta2 = group["betas"]
    corrections = 1 - beta2**steps, 1 - beta1**steps
    return SmallRule("adam", ("exp_avg", "exp_avg_sq"), (1 - beta1, beta2, 1 - beta2, *corrections, group["eps"]))


def prepared(batch: Batch, group: dict[str, Any], choose: Choose | None) -> Callable[[], None] | None:
    """Compute the next step of a batch, and return a function that writes it; None if torch must compute it."""
    manifold = batch.manifold
    if choose is None or not isinstance(manifold, _GROUPS) or type(manifold) not in _GROUPS:
        return None
    if group["capturable"] or isinstance(group["lr"], Tensor) or has_dispatch_mode():
        return None
    if type(retraction := manifold.retraction) not in _MAPS or (small := batch.small) is None:
        return None
    steps = int(batch.states[0].get("step") or 0) + 1
    rule = choose(group, steps)
    gradients = [p.grad for p in batch.params if p.grad is not None]
    if rule is None or not all(map(is_like, gradients, batch.params)):
        return None
    if (by_columns := lies_by_columns(gradients)) is None:
        return None
    if (moments := _moments(batch, rule.moments)) is None:
        return None
    every = group["polish_every"]
    every = manifold.polish_every if every is None else every
    x, g = batch.found[0], list(map(Tensor.data_ptr, gradients))
    numbers = -1.0 if group["maximize"] else 1.0, -float(group["lr"]), *rule.numbers
    polish = bool(every) and steps % every == 0
    codes = RULES[rule.name], RETRACTIONS[retraction.name]
    if not small.prepare(x, g, moments, *codes, polish, by_columns, numbers):
        return None
    return partial(_commit, batch, rule.moments)


def _commit(batch: Batch, names: tuple[str, ...]) -> None:
    small, held = batch.small, [[s.get(name) for s in batch.states] for name in names]
    assert small is not None
    # new moments are stored once they have values: an allocation may fail or be interrupted before
    moments = [[_unwritten(p) if s is None else s for p, s in zip(batch.params, each, strict=True)] for each in held]
    small.commit([list(map(Tensor.data_ptr, each)) for each in moments])
    for name, each in zip(names, moments, strict=True):
        for s, moment in zip(batch.states, each, strict=True):
            s[name] = moment
    batch.count(on_device=False)
    increment_version(batch.params)
    batch.note_writing()


def _unwritten(p: Tensor) -> Tensor:
    n = len(p)
    return torch.empty(n * (n - 1) // 2, dtype=p.dtype, device=p.device)


def _moments(batch: Batch, names: tuple[str, ...]) -> list[list[int]] | None:
    """Return the addresses of moments, 0 for those that do not exist yet; None if they are not contiguous."""
    found: list[list[int]] = []
    for name in names:
        held = [s.get(name) for s in batch.states]
        known = batch.packed.get(name, ())
        if len(known) != len(held) or not all(map(operator.is_, held, known)):  # at the first step, and after a load
            if not (all(map(_is_none, held)) or all(_is_packed(s, p) for s, p in zip(held, batch.params, strict=True))):
                return None
            batch.packed[name] = held
        found.append([0 if s is None else s.data_ptr() for s in held])
    some = {bool(addresses[0]) for addresses in found if batch.params[0].numel() > 1}
    return found if len(some) < 2 else None


def _is_packed(moment: Tensor | None, p: Tensor) -> bool:
    n = len(p)
    kind = p.dtype, p.device, (n * (n - 1) // 2,)
    return moment is not None and moment.is_contiguous() and (moment.dtype, moment.device, moment.shape) == kind


def _is_none(x: object) -> bool:
    return x is None
