"""Riemannian Adagrad."""

from __future__ import annotations

import math
from typing import Any, Literal, Unpack

import torch
from torch import Tensor
from torch.optim.adagrad import adagrad
from torch.optim.optimizer import ParamsT

from .._torch import fused_adagrad
from .base import RiemannianOptimizer
from .batch import Batch
from .options import RetractionOptions, StateKinds, require, require_second_moment
from .plain import Plain


class RiemannianAdagrad(RiemannianOptimizer):
    r"""Adagrad on manifolds.

    .. math::
        v \leftarrow v + c^2, \qquad
        x \leftarrow R_x\Bigl(-\frac{\eta}{1 + (t - 1)\,\delta}\, \frac{c}{\sqrt v + \epsilon}\Bigr)

    Here ``c`` is the gradient in coordinates. On groups this equals `torch.optim.Adagrad` in the trivialized view with
    ``rebase_every=1``.

    Parameters
    ----------
    params : iterable of Tensor, named parameters, or param groups
    lr : float
        Learning rate :math:`\eta`.
    lr_decay : float
        :math:`\delta`.
    weight_decay : float
        For parameters without a manifold only.
    initial_accumulator_value : float
        The initial value of ``v``. Default: 0 as in torch; TensorFlow's Adagrad uses 0.1.
    eps : float
        :math:`\epsilon`.
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
    Parameters with equal manifold and shape are updated as one batch. Sources: Duchi, Hazan and Singer (2011); on
    manifolds Becigneul and Ganea (2019).

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Orthogonal())
    >>> layer(torch.ones(3)).sum().backward(); mr.optim.RiemannianAdagrad(layer.parameters(), lr=0.1).step()
    >>> assert mr.linalg.defect(layer.weight) < 1e-5
    """

    kinds = StateKinds(squares=("sum",))
    plain = torch.optim.Adagrad
    fused_on = ("cpu",)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        second_moment: Literal["elementwise", "matrix"] = "elementwise",
        **options: Unpack[RetractionOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "second_moment": second_moment,
        }
        super().__init__(params, defaults, **options)

    def validate(self, group: dict[str, Any]) -> None:
        super().validate(group)
        for name in ("lr_decay", "initial_accumulator_value", "eps"):
            require(group, name, lambda v: 0 <= v < math.inf, "a finite number of at least 0")
        require_second_moment(group)

    def direction(self, batch: Batch, x: Tensor, c: Tensor, steps: int | Tensor, group: dict[str, Any]) -> Tensor:
        square = batch.square(x, c, group["second_moment"])
        start = group["initial_accumulator_value"]
        v = batch.updated("sum", square, lambda old, out: torch.add(old, square, out=out), start)
        return c / ((v.sqrt() + group["eps"]) * (1 + (steps - 1) * group["lr_decay"]))

    def step_plain(self, plain: Plain, group: dict[str, Any], found_inf: Tensor | None = None) -> None:
        on_device, start = group["capturable"], group["initial_accumulator_value"]
        x, g, v = plain.values(), plain.slopes(), plain.moments("sum", start)
        options: dict[str, Any] = {name: group[name] for name in ("lr", "weight_decay", "lr_decay", "eps", "maximize")}
        options["found_inf"] = found_inf
        if plain.fused and fused_adagrad is not None and not on_device and (steps := plain.common_step()) is not None:
            fused_adagrad(x, g, v, steps, grad_scale=None, **options)
        else:
            steps = plain.steps(on_device=on_device)
            adagrad(x, g, v, steps, fused=plain.fused, foreach=not plain.fused, **options)
        plain.count(on_device=on_device)
