"""Riemannian Muon: steepest descent in the spectral norm, in closed form on orthonormal columns."""

from __future__ import annotations

from typing import Any, Literal, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..manifolds import Euclidean
from .adam import adam_direction, require_adam
from .base import RiemannianOptimizer
from .batch import Batch
from .options import RetractionOptions, StateKinds, require

_PLAIN = Euclidean()


class RiemannianMuon(RiemannianOptimizer):
    r"""Muon on manifolds: steepest descent in the spectral norm, exact on matrices with orthonormal columns.

    .. math::
        B \leftarrow \mu B + (1 - \mu)\, G, \qquad A = \operatorname{msign}(\operatorname{skew}(B W^H)), \qquad
        W \leftarrow e^{-\eta A} W = W - \sin(\eta) A W + (1 - \cos \eta) A^2 W

    Here ``G`` is the gradient from autograd, and msign is `manifold_rnn.linalg.msign`. Among all tangent vectors of
    spectral norm 1, the loss decreases fastest along :math:`-AW`, and the step follows its geodesic. The learning rate
    is an angle: every active plane rotates by ``lr`` radians, for gradients of any size.

    Parameters
    ----------
    params : iterable of Tensor, named parameters, or param groups
    lr : float
        An angle in radians. Decrease it during training: with a constant ``lr``, the weight finally oscillates by
        ``lr``.
    momentum : float
        :math:`\mu`. The buffer is an average of ambient gradients, and needs no transport.
    nesterov : bool
        Whether to use :math:`(1 - \mu) G + \mu B` instead of ``B``.
    scale : {None, "nuclear"}
        ``"nuclear"`` multiplies ``lr`` by the mean singular value of the tangent part of the gradient. Steps then
        vanish at a stationary point, and depend on the size of the gradient.
    step : {"geodesic", "retraction"}
        ``"retraction"`` uses the retraction of the manifold instead of the geodesic. A geodesic step removes rounding
        drift by itself; ``polish_every`` only affects retractions.
    rule : {"muon", "adam"}
        ``"adam"`` makes the steps of `RiemannianAdam` with ``betas`` and ``eps``, for example in a group of embeddings.
    betas : tuple of float
        For ``rule="adam"`` and for parameters that Adam updates.
    eps : float
        As ``betas``.
    weight_decay : float
        For parameters without a manifold only: multiplies them by :math:`1 - \eta\lambda` at each step.
    **options
        ``maximize``, ``polish_every``, ``on_nonfinite`` and ``capturable``; see `RiemannianOptimizer`.

    Raises
    ------
    OptionError
        If an option is unknown or out of range.

    Notes
    -----
    The step depends on the parameter:

    ========================================================  =========================================================
    parameter                                                 step
    ========================================================  =========================================================
    on the orthogonal, unitary or Stiefel manifold of this    the closed form above, for each block or head
    package, real or complex, also blocks of a weight
    on `Grassmann`                                            the same by the horizontal part of ``B``
    without a manifold, two axes or more                      Muon: :math:`W - \eta \sqrt{\max(1, n/p)}
                                                              \operatorname{msign}(B)`; kernels are flattened to
                                                              (n, p) after the first axis
    in `UnitDisc`, `Contraction` or `SpectralScaled`          that of Muon, mapped back into the set
    on another manifold                                       :math:`\eta` along the Riemannian gradient, of norm 1
    without a manifold, fewer than two axes                   Adam at the ``lr`` of the group
    ========================================================  =========================================================

    Adam updates biases, and the coordinates of a weight in the trivialized view, because they have only one axis. Put
    biases into a group with a smaller ``lr``, and constrain in the update view. On `SpecialUnitary` the trace of the
    skew-Hermitian part and of ``A`` is removed. The norm of ``A`` is then at most 2, and the step has another phase.

    A singular value of ``B`` far below the largest (see `manifold_rnn.linalg.msign`) may become one of ``A`` between 0
    and 1. Its plane rotates by less than ``lr``, and the step still ends on the manifold. For n x p matrices with
    n > 2p, ``A`` is computed from its restriction to 2p dimensions. Sources: Jordan et al. (2024) for Muon; Bernstein
    (2025) for the square case of ``A``.

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(8, 8, bias=False), "weight", mr.Orthogonal(), init="haar")
    >>> before = layer.weight.detach().clone()
    >>> layer(torch.randn(2, 8)).square().sum().backward(); layer(torch.randn(2, 8)).sum().backward()
    >>> mr.optim.RiemannianMuon(layer.parameters(), lr=0.02).step()
    >>> assert torch.linalg.matrix_norm(layer.weight - before, 2) < 0.0201
    """

    carried = ("exp_avg",)
    kinds = StateKinds(ambient=("momentum_buffer",), squares=("exp_avg_sq",))
    decouples_decay = True
    checks_steps = False  # closed forms do not check their results

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        scale: Literal["nuclear"] | None = None,
        weight_decay: float = 0.0,
        *,
        step: Literal["geodesic", "retraction"] = "geodesic",
        rule: Literal["muon", "adam"] = "muon",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        **options: Unpack[RetractionOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "scale": scale,
            "weight_decay": weight_decay,
            "step": step,
            "rule": rule,
            "betas": betas,
            "eps": eps,
        }
        super().__init__(params, defaults, **options)

    def validate(self, group: dict[str, Any]) -> None:
        super().validate(group)
        require(group, "momentum", lambda v: 0 <= v < 1, "a number in [0, 1)")
        require(group, "nesterov", lambda v: isinstance(v, bool), "True or False")
        require(group, "scale", lambda v: v in (None, "nuclear"), "None or 'nuclear'")
        require(group, "step", lambda v: v in ("geodesic", "retraction"), "'geodesic' or 'retraction'")
        require(group, "rule", lambda v: v in ("muon", "adam"), "'muon' or 'adam'")
        require_adam(group)

    def advance(self, batch: Batch, x: Tensor, g: Tensor, steps: int | Tensor, group: dict[str, Any]) -> Tensor:
        if batch.manifold is None and group["weight_decay"]:
            x = x * (1 - group["lr"] * group["weight_decay"])
        if group["rule"] == "adam" or (batch.manifold is None and x.ndim < 3):  # one of the axes is the batch
            return super().advance(batch, x, g, steps, group)
        share = 1 - group["momentum"]
        average = batch.updated("momentum_buffer", g, lambda old, out: torch.lerp(old, g, share, out=out))
        gradient = torch.lerp(average, g, share) if group["nesterov"] else average
        # corrects for the start at 0, which would make "nuclear" steps too short
        left = group["momentum"] ** (steps + group["nesterov"])
        gradient = gradient / (1 - (left.reshape(-1, *[1] * (x.ndim - 1)) if isinstance(left, Tensor) else left))
        options = {"geodesic": group["step"] == "geodesic", "nuclear": group["scale"] == "nuclear"}
        if batch.manifold is None:
            y = _PLAIN.spectral_step(x.flatten(2), gradient.flatten(2), group["lr"], **options).view_as(x)
        else:
            y = batch.manifold.spectral_step(x, gradient, group["lr"], **options)
        return y if options["geodesic"] else batch.polished(y, steps, group["polish_every"])

    def direction(self, batch: Batch, x: Tensor, c: Tensor, steps: int | Tensor, group: dict[str, Any]) -> Tensor:
        return adam_direction(batch, x, c, steps, {**group, "amsgrad": False, "second_moment": "elementwise"})
