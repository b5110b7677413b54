"""The trivialized view: the weight is a function of free parameters."""

from __future__ import annotations

import cmath
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import geoopt
import torch
from torch import Tensor, nn

from .._torch import is_forward_mode, is_sharded, is_transformed, sees_every_step, version
from ..errors import NonFiniteError, OptionError, UnsupportedError
from ..linalg.precision import batched, may_read_device, without_autocast
from ..manifolds import Manifold, adapt
from ..retractions import Retraction
from .constraint import Constraint
from .membership import measured_defect, projected, require_member, require_on_manifold, widened_point
from .parametrization import Parametrization, require_shape


def trivialize(
    constraint: geoopt.Manifold | Constraint, like: Tensor, *, rebase_every: int | None = None
) -> Parametrization:
    """Return the parametrization of a weight near ``like`` under any constraint.

    Parameters
    ----------
    constraint : geoopt.Manifold or Constraint
        A manifold, or a structured constraint.
    like : Tensor
        The present weight.
    rebase_every : int, optional
        For manifolds only: see `Trivialization`.

    Returns
    -------
    Parametrization

    Raises
    ------
    OptionError
        If ``constraint`` is neither of these.
    UnsupportedError
        If a structured constraint is given ``rebase_every``.
    ShapeError, DtypeError, NonFiniteError
        If the constraint does not contain weights of this shape or dtype, or ``like`` is not finite.

    Examples
    --------
    >>> entry = mr.constraints.trivialize(mr.Orthogonal(), torch.eye(3))
    >>> assert torch.equal(entry(), torch.eye(3))
    """
    if isinstance(constraint, geoopt.Manifold):
        manifold = adapt(constraint)
        manifold.require(like, "the weight")
        return Trivialization(manifold, projected(manifold, like), rebase_every=rebase_every)
    if not isinstance(constraint, Constraint):
        raise OptionError(
            "A constraint must be a manifold such as Orthogonal(), or a structured constraint such as FixedBase.\n"
            f"Got {constraint!r:.80}.\nPass an object, not a class or a string."
        )
    if rebase_every is not None:
        raise UnsupportedError(
            f"{type(constraint).__name__} is a structured constraint, which has no base to move.\n"
            f"Expected rebase_every=None, got {rebase_every}.\nLeave it out, or constrain to a manifold."
        )
    return constraint.trivialize(like)


class Trivialization(Parametrization):
    r"""A point as a function of free real coordinates.

    .. math:: W = R_{B}(c), \qquad \text{on a matrix group } W = B\, \varphi(A(c)).

    The base ``B`` is a buffer. The coordinates ``c`` are the parameter, which any torch optimizer trains.

    Parameters
    ----------
    manifold : Manifold
        The manifold of the weight; its retraction is ``R``.
    base : Tensor
        The starting point, at which the coordinates are 0.
    rebase_every : int, optional
        Move the base to the weight after this many optimizer steps (dynamic); None never moves it (static).

    Attributes
    ----------
    coordinates : Parameter, real
        Of shape ``manifold.coordinate_shape(base.shape)``. Weight decay would pull it towards the base.
    base : Tensor
        A buffer with the base point. If you replace or edit it, its next use checks that it is on the manifold.
    steps : Tensor
        With ``rebase_every``: a buffer with the number of optimizer steps, at which a resumed run moves the base.

    Notes
    -----
    On groups the coordinates are isometric and their transport is the identity. An optimizer's moments therefore stay
    valid when the base moves: exactly with ``rebase_every=1``, and to first order otherwise. Source: Lezcano-Casado
    (2019).

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Orthogonal(), view="trivialized")
    >>> assert layer.constraints["weight"].coordinates.shape == (3,)
    """

    takes_complex32: ClassVar[bool] = True
    base: Tensor
    steps: Tensor
    _accepted: tuple[Tensor, int | None] | None = None  # the base when it was last checked or computed, and its version

    def __init__(self, manifold: Manifold, base: Tensor, *, rebase_every: int | None = None) -> None:
        super().__init__()
        self.manifold, self.rebase_every = manifold, rebase_every
        self._counted: tuple[Tensor | None, int] = None, 0  # the buffer `steps` and its value
        base = base.detach().clone(memory_format=torch.contiguous_format)
        self.register_buffer("base", base)
        self._accept()
        if rebase_every:
            self.register_buffer("steps", torch.zeros((), dtype=torch.long, device=base.device))
        self.coordinates = nn.Parameter(base.real.new_zeros(manifold.coordinate_shape(tuple(base.shape), base.dtype)))

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_accepted": self._is_accepted()}  # a copy has another base

    def __setstate__(self, state: dict[str, Any]) -> None:
        count = state.pop("steps", 0)  # a number of Python in a pickle of an older version
        super().__setstate__({"_counted": (None, 0), **state, "_accepted": None})
        if self.rebase_every and "steps" not in self._buffers:
            self.register_buffer("steps", torch.tensor(count, device=self.base.device))
        if state.get("_accepted"):
            self._accept()

    def extra_repr(self) -> str:
        return f'view="trivialized", rebase_every={self.rebase_every}'

    # --- the weight ---

    def forward(self) -> Tensor:
        if self.base.is_meta:
            return torch.empty_like(self.base)  # on the meta device there are no numbers to compute with
        self.require_accepted()
        with without_autocast(self.base):
            if self._is_at_base():
                weight: Tensor = _AtBase.apply(self.coordinates, self.base, self.manifold)
                return weight
            return self.manifold.retr_free(self.base, self.coordinates)

    def _is_at_base(self) -> bool:
        """Return whether the coordinates are 0 after a rebase; False if reading them would wait for the device."""
        if not self.rebase_every or not self.manifold.isometric_at_zero:
            return False
        if self.base.device.type != "cpu" or not may_read_device() or is_transformed() or is_forward_mode():
            return False
        return float(torch.linalg.vector_norm(self.coordinates.detach())) == 0  # cheaper than any()

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Move the base to ``weight``, a point on the manifold, and set the coordinates to 0."""
        require_shape(self.base, weight)
        self._move(require_member(self.manifold, weight, self.base, "the assigned weight"))
        self.coordinates.zero_()

    @torch.no_grad()
    def assign_nearest(self, weight: Tensor) -> None:
        self.assign(projected(self.manifold, weight))

    @torch.no_grad()
    def defect(self) -> Tensor:
        return measured_defect(self.manifold, self())

    @property
    def weight_dtype(self) -> torch.dtype:
        return self.base.dtype

    def dimensions(self) -> dict[nn.Parameter, int]:
        return {self.coordinates: self.manifold.degrees_of_freedom(tuple(self.base.shape), self.base.dtype)}

    # --- retractions and steps ---

    @property
    def retraction(self) -> Retraction | None:
        return self.manifold.retraction

    def set_retraction(self, retraction: Retraction | str) -> None:
        manifold = self.manifold.with_retraction(retraction)
        self.rebase()
        self.manifold = manifold

    @property
    def watched(self) -> nn.Parameter | None:
        """The coordinates, or None if there are none."""
        return self._parameters.get("coordinates")

    def refresh(self) -> None:
        if self.rebase_every and is_sharded(self.watched):
            raise UnsupportedError(
                "The coordinates of a weight with rebase_every are a DTensor, but moving the base needs all of them.\n"
                "Expected whole coordinates on each rank; got some sharded by FSDP2 or tensor parallelism.\n"
                "Pass rebase_every=None, leave this module out of sharding (ignored_params), or use "
                "DistributedDataParallel."
            )

    def after_step(self) -> None:
        """Count one optimizer step, and rebase after every `rebase_every` steps."""
        if self.rebase_every:
            count, steps = self._count() + 1, self._buffers["steps"]
            assert steps is not None
            steps.add_(1)
            self._counted = steps, count
            if count % self.rebase_every == 0:
                self.rebase()

    def _count(self) -> int:
        """Return `steps`; read from the device only if something has replaced the buffer."""
        steps = self._buffers["steps"]
        if steps is not None and steps is not self._counted[0] and not steps.is_meta:
            self._counted = steps, int(steps)
        return self._counted[1]

    @torch.no_grad()
    def rebase(self) -> None:
        """Move the base to the polished weight and set the coordinates to 0, unless the weight is not finite."""
        try:
            with without_autocast(self.base):
                weight = self.manifold.polish(self.manifold.retr_free(self.base, self.coordinates))
        except NonFiniteError:  # the next forward raises it
            return
        if weight.device.type == "cpu" and may_read_device() and cmath.isfinite(weight.sum().item()):
            self._move(weight)
            self.coordinates.zero_()
            return
        sound = torch.isfinite(weight).all()  # stays on the device: no wait in the middle of training
        self._move(torch.where(sound, weight, self.base))
        self.coordinates.masked_fill_(sound, 0.0)

    def _move(self, point: Tensor) -> None:
        self.base.copy_(point)
        self._accept()

    # --- loading and conversion ---

    def check(self, loaded: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
        checked = super().check(loaded, path)
        if "base" in checked:
            project = self.on_load == "project"
            checked["base"] = require_member(self.manifold, checked["base"], self.base, f"{path}base", project=project)
        return checked

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before, count = self.base.dtype, self._count() if self.rebase_every else 0
        super()._apply(fn, recurse)
        with torch.no_grad():
            self.base.copy_(widened_point(self.manifold, self.base, before))
        if self.rebase_every:  # half precision would round the count, and `to_empty` would lose it
            if self.steps.dtype != torch.long:
                self.steps = self.steps.to(torch.long)
            self._counted = self.steps.fill_(count), count
        return self

    def _accept(self) -> None:
        """Record the base as it is now: whether it is replaced or edited is seen without reading it."""
        base: Tensor = self.base
        self._accepted = base, version(base)

    def _is_accepted(self) -> bool:
        known = self._accepted
        return known is not None and known[0] is self._buffers["base"] and known[1] == version(known[0])

    def require_accepted(self) -> None:
        """Check the base once after others have changed it: a conversion, a load, an edit. Called before each use."""
        if torch.compiler.is_compiling() or self._is_accepted():
            return
        if self.watched is None or sees_every_step() or not may_read_device():  # a replica of DataParallel has none
            return
        self.require_point()
        self._accept()

    def require_point(self) -> None:
        """Raise if the base is not on the manifold, for example after ``to_empty`` without a load."""
        require_on_manifold(self.manifold, self.base, "base")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        steps = state_dict.pop(f"{prefix}steps", None)  # files of other constraints have none, and old ones a number
        if self.rebase_every:
            if steps is None or (isinstance(steps, Tensor) and steps.is_meta):
                steps = self._count()
            base = state_dict.get(f"{prefix}base", self.base)
            state_dict[f"{prefix}steps"] = torch.as_tensor(steps).to(base.device, torch.long, copy=True)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._counted = None, self._counted[1]


class _AtBase(torch.autograd.Function):
    """The weight at coordinates 0. The derivative is an isometry there, so the map and its adjoint are not needed."""

    @staticmethod
    def forward(ctx: Any, coordinates: Tensor, base: Tensor, manifold: Manifold) -> Tensor:
        ctx.save_for_backward(coordinates, base)
        ctx.manifold = manifold
        return base.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        coordinates, base = ctx.saved_tensors
        create_graph = torch.is_grad_enabled()
        if not create_graph and not batched(g):
            return ctx.manifold.egrad2coordinates(base, g), None, None
        with torch.enable_grad():
            free = coordinates.view_as(coordinates)
            weight = ctx.manifold.retr_free(base, free)  # its second derivative is that of the retraction
            (gradient,) = torch.autograd.grad(weight, free, g, create_graph=create_graph)
        return gradient, None, None
