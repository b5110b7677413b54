"""Landing: descent without retractions, near the manifold instead of on it."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..constraints.membership import require_near
from ..errors import UnsupportedError
from ..linalg.checks import require_finite
from ..linalg.defect import minus_identity
from ..manifolds import Manifold, manifold_of
from .base import RiemannianOptimizer
from .batch import Batch
from .options import StateKinds, StepOptions, require
from .sgd import require_momentum, with_momentum

_REACH = 1 - 1e-3  # distances below this are attracted to the manifold


class Landing(RiemannianOptimizer):
    r"""The landing algorithm: descends, and is attracted to the orthonormal matrices at the same time.

    .. math::
        x \leftarrow x - \eta\,\ell, \qquad \ell = \operatorname{skew}(m x^H)\,x + \lambda\, x\,(x^H x - I).

    Here ``m`` is the momentum of the gradient. A step is cheaper than any retraction, but leaves the manifold: points
    have a distance :math:`d = \|x^H x - I\|_F`, which `distance` returns. The step obeys

    .. math::
        (x - \eta \ell)^H (x - \eta \ell) - I = (I - 2\eta\lambda\, x^H x)(x^H x - I) + \eta^2\, \ell^H \ell.

    The learning rate of each matrix is therefore reduced so that the norm of this stays below :math:`\epsilon`:

    .. math::
        \eta \le \frac{\lambda d (1 - d) + \sqrt{\lambda^2 d^2 (1 - d)^2 + q\,(\epsilon - d)}}{q}, \quad
        q = \|\ell^H \ell\|_F, \qquad \eta \le \frac{1}{2 \lambda (1 + d)}.

    Parameters
    ----------
    params : iterable of Tensor, named parameters, or param groups
        On `Orthogonal`, `SpecialOrthogonal`, `Unitary` or `Stiefel`, or assembled from such parts and free ones.
        Euclidean parameters are updated as by `torch.optim.SGD`.
    lr : float
        Learning rate :math:`\eta`.
    momentum, dampening : float
        As in `torch.optim.SGD`.
    weight_decay : float
        For parameters without a manifold only.
    nesterov : bool
        Requires a momentum, and no dampening.
    attraction : float
        :math:`\lambda`.
    epsilon : float
        The largest distance, below 1. A weight that starts between this distance and 1 comes nearer at every step. A
        distance of 1 or more raises an error.
    **options
        ``maximize``, ``on_nonfinite`` and ``capturable``; see `RiemannianOptimizer`.

    Raises
    ------
    UnsupportedError
        If a parameter is on another manifold.
    OptionError
        If an option is unknown or out of range.

    Notes
    -----
    Call `project` before you use or save a weight as a point on its manifold; otherwise a constrained layer refuses to
    load it. Source: Ablin and Peyre (2022); Ablin, Vary, Gao and Absil (2024) for tall
    matrices. The bound above is new.

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Orthogonal())
    >>> optimizer = mr.optim.Landing(layer.parameters(), lr=0.1)
    >>> layer(torch.ones(3)).sum().backward(); optimizer.step()
    >>> assert optimizer.distance < 0.5
    """

    kinds = StateKinds(ambient=("momentum_buffer",))
    shared = StepOptions
    checks_steps = False

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        attraction: float = 1.0,
        epsilon: float = 0.5,
        **options: Unpack[StepOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "attraction": attraction,
            "epsilon": epsilon,
        }
        super().__init__(params, defaults, **options)

    def validate(self, group: dict[str, Any]) -> None:
        super().validate(group)
        require_momentum(group)
        require(group, "attraction", lambda v: v > 0, "a positive number")
        require(group, "epsilon", lambda v: 0 < v < 1, "a number between 0 and 1")
        for p in group["params"]:
            _require_known(manifold_of(p))

    @property
    def distance(self) -> float:
        r"""The present largest :math:`\|x^H x - I\|_F` of a parameter."""
        return max((float(d) for p, m in self._constrained() for d in _distances(p.detach(), m)), default=0.0)

    @torch.no_grad()
    def project(self) -> None:
        """Project every parameter onto its manifold."""
        for p, manifold in self._constrained():
            p.copy_(manifold.projx(p))

    @torch.no_grad()
    def require_point(self, p: Tensor, manifold: Manifold, group: dict[str, Any], name: str) -> None:
        """Raise `OffManifoldError` at a distance of 1 or more, which is not attracted to the manifold."""
        if not p.is_meta:
            require_finite(p, f"the weight {name}")
            distance = max(map(float, _distances(p.detach(), manifold)), default=0.0)
            require_near(f"the weight {name}", distance, _REACH, manifold)

    def _constrained(self) -> list[tuple[Tensor, Manifold]]:
        pairs = ((p, manifold_of(p)) for group in self.param_groups for p in group["params"])
        return [(p, manifold) for p, manifold in pairs if manifold is not None]

    def direction(self, batch: Batch, x: Tensor, c: Tensor, steps: int | Tensor, group: dict[str, Any]) -> Tensor:
        return with_momentum(batch, c, steps, group)

    def advance(self, batch: Batch, x: Tensor, g: Tensor, steps: int | Tensor, group: dict[str, Any]) -> Tensor:
        if batch.manifold is None:
            return super().advance(batch, x, g, steps, group)
        if isinstance(steps, Tensor):  # shaped for coordinates, which may have fewer axes
            steps = steps.reshape(-1, *[1] * (g.ndim - 1))
        m = with_momentum(batch, g, steps, group)
        return _landed(batch.manifold, x, m, group)


def _landed(manifold: Manifold, x: Tensor, m: Tensor, group: dict[str, Any]) -> Tensor:
    """Return the point after a step, for each part of an assembled point; free parts make a plain step."""
    layout = manifold.layout
    if layout is not None:
        parts = zip(manifold.members, layout.split(x), layout.split(m), strict=True)
        return layout.join([_landed(*part, group) for part in parts], tuple(x.shape))
    return _fallen(x, m, group) if manifold.is_orthonormal else x - group["lr"] * m


def _fallen(x: Tensor, m: Tensor, group: dict[str, Any]) -> Tensor:
    gram = x.mH @ x
    beyond, attraction = minus_identity(gram), group["attraction"]
    # computes skew(m x^H) x by p x p products
    field = m @ (0.5 * gram) + x @ (attraction * beyond - 0.5 * (m.mH @ x))
    d = torch.linalg.matrix_norm(beyond, keepdim=True)
    q = torch.linalg.matrix_norm(field.mH @ field, keepdim=True).clamp(min=torch.finfo(d.dtype).tiny)
    pull = attraction * d * (1 - d).clamp(min=0)
    longest = (pull + (pull.square() + q * (group["epsilon"] - d).clamp(min=0)).sqrt()) / q
    rate = torch.minimum(longest, 0.5 / (attraction * (1 + d))).clamp(max=group["lr"])
    return x - rate * field


def _distances(x: Tensor, manifold: Manifold) -> Tensor:
    """Return the distances of all matrices that must be orthonormal, flattened."""
    if manifold.layout is not None:
        pairs = zip(manifold.layout.split(x), manifold.members, strict=True)
        return torch.cat([_distances(part, member) for part, member in pairs])
    if not manifold.is_orthonormal:
        return x.real.new_zeros(0)
    return torch.linalg.matrix_norm(minus_identity(x.mH @ x)).flatten()


def _require_known(manifold: Manifold | None) -> None:
    if manifold is not None and not _lands(manifold):
        raise UnsupportedError(
            "Landing only supports matrices with orthonormal columns.\n"
            f"Expected Orthogonal, SpecialOrthogonal, Stiefel or Unitary, got {manifold}.\n"
            "Use RiemannianSGD for this parameter, in a separate optimizer."
        )


def _lands(manifold: Manifold) -> bool:
    if manifold.layout is not None:
        return all(map(_lands, manifold.members))
    return manifold.is_orthonormal or manifold.is_flat
