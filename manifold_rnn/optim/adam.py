"""Riemannian Adam."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, Unpack

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.optimizer import ParamsT

from .._torch import fused_adam
from ..errors import UnsupportedError
from ..manifolds import Manifold, manifold_of
from .base import RiemannianOptimizer
from .batch import Batch
from .options import RetractionOptions, StateKinds, require, require_second_moment
from .plain import Plain
from .small import adam_rule
from .spheres import turn, turns_in_place


class RiemannianAdam(RiemannianOptimizer):
    r"""Adam on manifolds.

    .. math::
        m \leftarrow \beta_1 \mathcal T m + (1 - \beta_1)\, c, \quad v \leftarrow \beta_2 v + (1 - \beta_2)\, c^2, \quad
        x \leftarrow R_x\Bigl(-\eta\, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}\Bigr)

    Here ``c`` is the gradient in coordinates. On groups these refer to an orthonormal basis of the Lie algebra, and
    each is squared. This equals `torch.optim.Adam` in the trivialized view with ``rebase_every=1``. Real and imaginary
    parts are separate coordinates, so the second moment of a complex weight is real.

    Parameters
    ----------
    params : iterable of Tensor, named parameters, or param groups
    lr : float
        Learning rate :math:`\eta`.
    betas : tuple of float
        :math:`\beta_1` and :math:`\beta_2`.
    eps : float
        :math:`\epsilon`.
    weight_decay : float
        For parameters without a manifold only.
    amsgrad : bool
        Whether to divide by the largest second moment so far.
    scale : {None, "angle"}
        ``"angle"``, for weights on `Sphere` and `Oblique`, makes the steps of AdamH: ``lr`` is the angle in radians by
        which each vector rotates. See the notes.
    second_moment : {"elementwise", "matrix"}
        ``"matrix"`` uses one squared norm per matrix, as Becigneul and Ganea do, which does not depend on the basis.
        It is always used for geoopt's manifolds, whose coordinates are not orthonormal, and for `Sphere` and `Oblique`,
        with one number for each vector.
    **options
        ``maximize``, ``polish_every``, ``on_nonfinite`` and ``capturable``; see `RiemannianOptimizer`.

    Raises
    ------
    OptionError
        If an option is unknown or out of range.
    UnsupportedError
        If ``scale="angle"`` is used for a parameter on a manifold that is not a sphere.

    Notes
    -----
    Parameters with equal manifold and shape are updated as one batch. With ``scale="angle"`` the direction is that of
    plain Adam, :math:`U = \hat m / (\sqrt{\hat v} + \epsilon)`, with elementwise moments of the gradient from autograd.
    The direction is projected onto the tangent space, and the weight rotates towards it:

    .. math:: W \leftarrow W \cos\eta - r \sin\eta\, \frac{P_W U}{|P_W U|}.

    The published AdamH ("hyperball") uses :math:`W \leftarrow r\, (W - \eta r\, U / |U|)`, rescaled to norm r, on whole
    matrices. The component of U along W only changes the length of its step. Parameters without a manifold are updated
    by plain Adam. Decrease ``lr`` during training: steps do not become shorter when the gradient does.

    Sources: Kingma and Ba (2015); Becigneul and Ganea (2019); AMSGrad by Reddi, Kale and Kumar (2018).

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Orthogonal("qr"))
    >>> layer(torch.ones(3)).sum().backward(); mr.optim.RiemannianAdam(layer.parameters(), lr=0.1).step()
    >>> assert mr.linalg.defect(layer.weight) < 1e-5
    """

    carried = ("exp_avg",)
    kinds = StateKinds(squares=("exp_avg_sq", "max_exp_avg_sq"))
    plain = torch.optim.Adam
    small = adam_rule
    fused_on = ("cpu", "cuda")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        scale: Literal["angle"] | None = None,
        second_moment: Literal["elementwise", "matrix"] = "elementwise",
        **options: Unpack[RetractionOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "scale": scale,
            "second_moment": second_moment,
        }
        super().__init__(params, defaults, **options)

    def validate(self, group: dict[str, Any]) -> None:
        super().validate(group)
        require_adam(group)
        require_second_moment(group)
        require(group, "scale", lambda v: v in (None, "angle"), "None or 'angle'")
        for p in group["params"] if group["scale"] == "angle" else ():
            require_sphere(manifold_of(p))

    def advance(self, batch: Batch, x: Tensor, g: Tensor, steps: int | Tensor, group: dict[str, Any]) -> Tensor:
        if group["scale"] is None or batch.manifold is None:
            return super().advance(batch, x, g, steps, group)
        require_sphere(batch.manifold)
        c = batch.manifold.to_coordinates(x, g)  # of the whole gradient, since each of its entries is squared
        d = adam_direction(batch, x, c, steps, group)
        u = batch.manifold.ambient(x, d)  # not projected: the step projects it, and detects a zero tangent part
        return batch.manifold.spectral_step(x, u, group["lr"])

    def direction(self, batch: Batch, x: Tensor, c: Tensor, steps: int | Tensor, group: dict[str, Any]) -> Tensor:
        return adam_direction(batch, x, c, steps, group)

    def in_place(self, batch: Batch, group: dict[str, Any], size: float) -> Callable[[], None] | None:
        return functools.partial(turn, batch, group) if turns_in_place(batch, group, size) else None

    def step_plain(self, plain: Plain, group: dict[str, Any], found_inf: Tensor | None = None) -> None:
        on_device, (beta1, beta2) = group["capturable"], group["betas"]
        x, g, m, v = plain.values(), plain.slopes(), plain.moments("exp_avg"), plain.moments("exp_avg_sq")
        largest = plain.moments("max_exp_avg_sq") if group["amsgrad"] else []
        options: dict[str, Any] = {name: group[name] for name in ("amsgrad", "lr", "weight_decay", "eps", "maximize")}
        options |= {"beta1": beta1, "beta2": beta2, "found_inf": found_inf}
        if plain.fused and fused_adam is not None and not on_device and (steps := plain.common_step()) is not None:
            fused_adam(x, g, m, v, largest, steps, grad_scale=None, **options)
        else:
            steps = plain.steps(on_device=on_device)
            adam(x, g, m, v, largest, steps, not plain.fused, on_device, fused=plain.fused, **options)
        plain.count(on_device=on_device)


def require_sphere(manifold: Manifold | None) -> None:
    """Raise `UnsupportedError` unless a manifold is None or a sphere."""
    if manifold is not None and not manifold.is_sphere:
        raise UnsupportedError(
            "scale='angle' needs a weight on Sphere or Oblique.\n"
            f"Expected Sphere, Oblique or a plain parameter, got {manifold}.\n"
            "Leave scale out, use RiemannianMuon, or put the parameter into another group."
        )


def require_adam(group: dict[str, Any]) -> None:
    """Raise `OptionError` unless the options of the moments are in range."""
    require(group, "betas", lambda v: len(v) == 2 and all(0 <= b < 1 for b in v), "two numbers in [0, 1)")
    require(group, "eps", lambda v: 0 <= v < math.inf, "a finite number of at least 0")


def adam_direction(batch: Batch, x: Tensor, c: Tensor, steps: int | Tensor, group: dict[str, Any]) -> Tensor:
    """Return Adam's direction for the gradient ``c``, and update the moments."""
    beta1, beta2 = group["betas"]
    each = group.get("scale") == "angle"
    square = c.square() if each else batch.square(x, c, group["second_moment"])
    m = batch.updated("exp_avg", c, lambda old, out: torch.lerp(old, c, 1 - beta1, out=out))
    v = batch.updated(
        "exp_avg_sq", square, lambda old, out: torch.mul(old, beta2, out=out).add_(square, alpha=1 - beta2)
    )
    if group["amsgrad"]:
        now = v
        v = batch.updated("max_exp_avg_sq", square, lambda old, out: torch.maximum(old, now, out=out))
    denominator = (v / (1 - beta2**steps)).sqrt_().add_(group["eps"])
    return m / denominator.mul_(1 - beta1**steps)
