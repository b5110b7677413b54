"""Riemannian stochastic gradient descent with momentum."""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.optim.sgd import sgd

from .._torch import add_each
from ..errors import OptionError
from .base import RiemannianOptimizer
from .batch import Batch
from .options import RetractionOptions, require
from .plain import Plain
from .small import momentum_rule


class RiemannianSGD(RiemannianOptimizer):
    r"""Riemannian stochastic gradient descent, with momentum.

    .. math:: m \leftarrow \mu\, \mathcal T m + (1 - \tau) \operatorname{grad} f, \qquad x \leftarrow R_x(-\eta\, m).

    With ``nesterov`` the direction is :math:`\operatorname{grad} f + \mu m`. :math:`\mathcal T` is the transport of the
    manifold; on groups it does not change coordinates. On groups this equals `torch.optim.SGD` in the trivialized view
    with ``rebase_every=1``.

    Parameters
    ----------
    params : iterable of Tensor, named parameters, or param groups
    lr : float
        Learning rate :math:`\eta`.
    momentum, dampening : float
        :math:`\mu` and :math:`\tau`, as in `torch.optim.SGD`.
    weight_decay : float
        For parameters without a manifold only.
    nesterov : bool
        Requires a momentum, and no dampening.
    **options
        ``maximize``, ``polish_every``, ``on_nonfinite`` and ``capturable``; see `RiemannianOptimizer`.

    Raises
    ------
    OptionError
        If an option is unknown or out of range.

    Notes
    -----
    Parameters with equal manifold and shape are updated as one batch. Source: Bonnabel (2013).

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Orthogonal())
    >>> layer(torch.ones(3)).sum().backward(); mr.optim.RiemannianSGD(layer.parameters(), lr=0.1).step()
    >>> assert mr.linalg.defect(layer.weight) < 1e-5
    """

    carried = ("momentum_buffer",)
    plain = torch.optim.SGD
    small = momentum_rule
    fused_on = ("cpu", "cuda")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        **options: Unpack[RetractionOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        super().__init__(params, defaults, **options)

    def validate(self, group: dict[str, Any]) -> None:
        super().validate(group)
        require_momentum(group)

    def advance(self, batch: Batch, x: Tensor, g: Tensor, steps: int | Tensor, group: dict[str, Any]) -> Tensor:
        if batch.manifold is None or group["momentum"]:
            return super().advance(batch, x, g, steps, group)
        y = batch.manifold.retr_gradient(x, g, -group["lr"])
        return batch.polished(y, steps, group["polish_every"])

    def direction(self, batch: Batch, x: Tensor, c: Tensor, steps: int | Tensor, group: dict[str, Any]) -> Tensor:
        return with_momentum(batch, c, steps, group)

    def joins_plain(self, group: dict[str, Any]) -> bool:
        # if a first step is skipped on the device, torch leaves its buffer uninitialized
        return super().joins_plain(group) and not (group["capturable"] and group["momentum"] and group["dampening"])

    def step_plain(self, plain: Plain, group: dict[str, Any], found_inf: Tensor | None = None) -> None:
        values, slopes = plain.values(), plain.slopes()
        on_device, name = group["capturable"], "momentum_buffer"
        steps = plain.steps(on_device=on_device)
        if group["momentum"] and on_device:
            plain.moments(name)
        # torch initializes all buffers of a call or none
        fresh = [bool(group["momentum"]) and name not in s for s in plain.states]
        for first in sorted(set(fresh)):
            chosen = [i for i, is_fresh in enumerate(fresh) if is_fresh == first]
            buffers: list[Tensor | None] = [plain.states[i].get(name) if group["momentum"] else None for i in chosen]
            sgd(
                [values[i] for i in chosen],
                [slopes[i] for i in chosen],
                buffers,
                fused=plain.fused,
                foreach=not plain.fused,
                found_inf=found_inf,
                lr=group["lr"],
                momentum=group["momentum"],
                dampening=group["dampening"],
                weight_decay=group["weight_decay"],
                nesterov=group["nesterov"],
                maximize=group["maximize"],
            )
            for i, buffer in zip(chosen, buffers, strict=True) if first else ():
                plain.states[i][name] = buffer
        if group["momentum"]:
            plain.hold(name)
        if on_device:
            done = torch.ones(()) if found_inf is None else 1 - found_inf
            add_each(steps, [done.to(s.device) for s in steps])
        plain.count(on_device=on_device)


def require_momentum(group: dict[str, Any]) -> None:
    """Raise `OptionError` unless the options of momentum are consistent."""
    require(group, "momentum", lambda v: 0 <= v < math.inf, "a finite number of at least 0")
    if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
        raise OptionError(
            "nesterov needs a positive momentum and no dampening.\n"
            f"Got momentum={group['momentum']}, dampening={group['dampening']}.\nUse e.g. momentum=0.9, dampening=0."
        )


def with_momentum(batch: Batch, c: Tensor, steps: int | Tensor, group: dict[str, Any]) -> Tensor:
    """Return the direction with momentum for the gradient ``c``, and update the buffer."""
    if not group["momentum"]:
        return c
    first = (steps == 1) * steps  # torch initializes the buffer by the first gradient, without dampening
    fresh = 1 - group["dampening"] * (1 - first)
    m = batch.updated("momentum_buffer", c, lambda old, out: torch.mul(old, group["momentum"], out=out).add_(c * fresh))
    return c + group["momentum"] * m if group["nesterov"] else m
