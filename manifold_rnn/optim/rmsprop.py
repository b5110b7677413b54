"""Riemannian RMSprop."""

from __future__ import annotations

import math
from typing import Any, Literal, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.optim.rmsprop import rmsprop

from .base import RiemannianOptimizer
from .batch import Batch
from .options import RetractionOptions, StateKinds, require, require_second_moment
from .plain import Plain


class RiemannianRMSprop(RiemannianOptimizer):
    r"""RMSprop on manifolds.

    .. math::
        v \leftarrow \alpha v + (1 - \alpha)\, c^2, \quad
        b \leftarrow \mu\, \mathcal T b + \frac{c}{\sqrt v + \epsilon}, \quad x \leftarrow R_x(-\eta\, b)

    Here ``c`` is the gradient in coordinates. With ``centered`` the divisor is :math:`\sqrt{v - a^2} + \epsilon`, where
    ``a`` is the running mean of ``c``. On groups this equals `torch.optim.RMSprop` in the trivialized view with
    ``rebase_every=1``.

    Parameters
    ----------
    params : iterable of Tensor, named parameters, or param groups
    lr : float
        Learning rate :math:`\eta`.
    alpha : float
        :math:`\alpha`, in [0, 1).
    eps : float
        :math:`\epsilon`.
    weight_decay : float
        For parameters without a manifold only.
    momentum : float
        :math:`\mu`.
    centered : bool
        Whether to subtract the squared mean of the gradient.
    initial_accumulator_value : float
        The initial value of ``v``. Default: 0 as in torch. TensorFlow's first RMSprop, which many published networks
        used, starts at 1, which makes the first steps small.
    second_moment : {"elementwise", "matrix"}
        ``"matrix"`` uses one squared norm per matrix. geoopt's manifolds and `Stiefel` always use it.
    **options
        ``maximize``, ``polish_every``, ``on_nonfinite`` and ``capturable``; see `RiemannianOptimizer`.

    Raises
    ------
    OptionError
        If an option is unknown or out of range.

    Notes
    -----
    Parameters with equal manifold and shape are updated as one batch. Sources: Tieleman and Hinton (2012) for the rule,
    Graves (2013) for the centered variant.

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Orthogonal())
    >>> layer(torch.ones(3)).sum().backward(); mr.optim.RiemannianRMSprop(layer.parameters(), lr=1e-3).step()
    >>> assert mr.linalg.defect(layer.weight) < 1e-5
    """

    carried = ("momentum_buffer", "grad_avg")
    kinds = StateKinds(squares=("square_avg",))
    plain = torch.optim.RMSprop

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        initial_accumulator_value: float = 0.0,
        second_moment: Literal["elementwise", "matrix"] = "elementwise",
        **options: Unpack[RetractionOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "initial_accumulator_value": initial_accumulator_value,
            "second_moment": second_moment,
        }
        super().__init__(params, defaults, **options)

    def validate(self, group: dict[str, Any]) -> None:
        super().validate(group)
        require(group, "alpha", lambda v: 0 <= v < 1, "a number in [0, 1)")
        for name in ("eps", "momentum", "initial_accumulator_value"):
            require(group, name, lambda v: 0 <= v < math.inf, "a finite number of at least 0")
        require_second_moment(group)

    def direction(self, batch: Batch, x: Tensor, c: Tensor, steps: int | Tensor, group: dict[str, Any]) -> Tensor:
        alpha = group["alpha"]
        square = batch.square(x, c, group["second_moment"])
        start = group["initial_accumulator_value"]
        v = batch.updated(
            "square_avg", square, lambda old, out: torch.mul(old, alpha, out=out).add_(square, alpha=1 - alpha), start
        )
        if group["centered"]:
            mean = batch.updated("grad_avg", c, lambda old, out: torch.lerp(old, c, 1 - alpha, out=out))
            v = (v - batch.square(x, mean, group["second_moment"])).clamp_(min=0)
        d = c / (v.sqrt() + group["eps"])
        if not group["momentum"]:
            return d
        return batch.updated("momentum_buffer", c, lambda old, out: torch.mul(old, group["momentum"], out=out).add_(d))

    def joins_plain(self, group: dict[str, Any]) -> bool:
        # torch takes the root of differences that rounding makes negative, and has no fused function that can skip
        return super().joins_plain(group) and not (group["centered"] or group["capturable"])

    def step_plain(self, plain: Plain, group: dict[str, Any], found_inf: Tensor | None = None) -> None:
        rmsprop(
            plain.values(),
            plain.slopes(),
            plain.moments("square_avg", group["initial_accumulator_value"]),
            [],
            plain.moments("momentum_buffer") if group["momentum"] else [],
            plain.steps(),
            foreach=True,
            lr=group["lr"],
            alpha=group["alpha"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            centered=False,
            maximize=group["maximize"],
        )
        plain.count()
