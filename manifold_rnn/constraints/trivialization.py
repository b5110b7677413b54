"""The trivialized view: the weight is a function of free parameters."""

import cmath
from typing import Any, Self

import torch
from torch import Tensor, nn

from .._torch import is_forward_mode, is_transformed
from ..errors import OptionError
from ..linalg.precision import batched, may_read_device, without_autocast
from ..manifolds import Manifold, MatrixGroup, Viewed
from ..retractions import Retraction
from . import hooks
from .admission import admitted, require_finite


class Trivialization(nn.Module):
    r"""A point as a function of free real coordinates.

    .. math:: W = R_{B}(c), \qquad \text{on a matrix group } W = B\, \varphi(A(c)),

    with the base ``B`` a buffer and the coordinates ``c`` the parameter that any torch optimizer trains.

    Parameters
    ----------
    manifold : Manifold
        Where the weight lives; its retraction is ``R``.
    base : Tensor
        The starting point, at which the coordinates are 0.
    rebase_every : int, optional
        Move the base to the weight after every so many optimizer steps (dynamic); None never moves it (static).
    on_load : "raise" or "project"
        What to do with a loaded base that is off the manifold.

    Attributes
    ----------
    coordinates : Parameter, real
        Of shape ``manifold.coordinate_shape(base.shape)``. Weight decay on it pulls towards the base: keep it out.
    base : Tensor
        A buffer.

    Notes
    -----
    On groups the coordinates are isometric and their transport is the identity, so the moments of an optimizer stay
    valid when the base moves: with ``rebase_every=1`` exactly. Source: Lezcano-Casado (2019).

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Orthogonal(), view="trivialized")
    >>> assert layer.constraints["weight"].coordinates.shape == (3,)
    """

    base: Tensor

    def __init__(
        self, manifold: Manifold, base: Tensor, *, rebase_every: int | None = None, on_load: str = "raise"
    ) -> None:
        super().__init__()
        self.manifold, self.rebase_every, self.on_load = manifold, rebase_every, on_load
        self.steps = 0
        base = base.detach().clone()
        self.register_buffer("base", base)
        self.coordinates = nn.Parameter(base.real.new_zeros(manifold.coordinate_shape(tuple(base.shape), base.dtype)))
        hooks.track(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        hooks.track(self)

    @property
    def watches_steps(self) -> bool:
        """Whether `step` must be called after each step of the optimizer that trains the coordinates."""
        return self.rebase_every is not None

    def extra_repr(self) -> str:
        """Say which view this is."""
        return f'view="trivialized", rebase_every={self.rebase_every}'

    def forward(self) -> Tensor:
        """Return the dense weight."""
        if self.base.is_meta:
            return torch.empty_like(self.base)  # whose numbers no algorithm can look at
        with without_autocast(self.base):
            if self._is_at_base():
                weight: Tensor = _AtBase.apply(self.coordinates, self.base, self.manifold)
                return weight
            return self.manifold.retr_coordinates(self.base, self.coordinates)

    def _is_at_base(self) -> bool:
        """Whether the base of a group has just moved to the weight; not asked where to look at numbers costs a wait."""
        manifold = self.manifold.manifold if isinstance(self.manifold, Viewed) else self.manifold
        if not self.rebase_every or not isinstance(manifold, MatrixGroup):
            return False
        if self.base.device.type != "cpu" or not may_read_device():
            return False
        if is_transformed() or is_forward_mode():
            return False
        return float(torch.linalg.vector_norm(self.coordinates.detach())) == 0  # cheaper than any()

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Make ``weight``, a point on the manifold, the base, and the coordinates 0."""
        require_shape(self.base, weight)
        self.base.copy_(admitted(self.manifold, weight, self.base, "the assigned weight"))
        self.coordinates.zero_()

    @torch.no_grad()
    def rebase(self) -> None:
        """Move the base to the weight, polished, and the coordinates to 0, unless the weight is not finite."""
        with without_autocast(self.base):
            weight = self.manifold.polish(self.manifold.retr_coordinates(self.base, self.coordinates))
        if weight.device.type == "cpu" and may_read_device() and cmath.isfinite(weight.sum().item()):
            self.base.copy_(weight)
            self.coordinates.zero_()
            return
        sound = torch.isfinite(weight).all()  # stays on the device: no wait in the middle of training
        self.base.copy_(torch.where(sound, weight, self.base))
        self.coordinates.masked_fill_(sound, 0.0)

    def set_retraction(self, retraction: Retraction | str) -> None:
        """Use another retraction from here on, with the same weight."""
        manifold = self.manifold.with_retraction(retraction)
        self.rebase()
        self.manifold = manifold

    def step(self) -> None:
        """Count one optimizer step, and rebase when it is time."""
        self.steps += 1
        if self.rebase_every and self.steps % self.rebase_every == 0:
            self.rebase()

    def degrees_of_freedom(self) -> int:
        """Count the real numbers that are free."""
        return self.manifold.degrees_of_freedom(tuple(self.base.shape), self.base.dtype)

    def check(self, state: dict[str, Any], prefix: str, own: str, module: nn.Module) -> None:
        """Let a loaded base pass, project it inside ``state``, or raise."""
        if (key := f"{own}base") in state:
            state[key] = admitted(self.manifold, state[key], self.base, key, project=self.on_load == "project")
        if isinstance(free := state.get(f"{own}coordinates"), Tensor) and not free.is_meta:
            require_finite(free, f"{own}coordinates")

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        precision = torch.finfo(self.base.dtype).eps
        super()._apply(fn, recurse)
        free, real = self.coordinates, self.base.real.dtype
        if free.dtype != real:  # .to(complex128) and .double() mean it well
            free.data, free.grad = free.detach().real.to(real), None
        if torch.finfo(real).eps < precision and not self.base.is_meta:
            with torch.no_grad():
                self.base.copy_(self.manifold.polish(self.base))  # the digits that it did not have before
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.rebase_every:  # a resumed run must rebase at the same steps
            destination[f"{prefix}steps"] = torch.tensor(self.steps)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self.steps = int(state_dict.pop(f"{prefix}steps", self.steps))
        super()._load_from_state_dict(state_dict, prefix, *args)


class _AtBase(torch.autograd.Function):
    """The weight at coordinates 0, where every map of a group has the identity as derivative: no map, no adjoint."""

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
            weight = ctx.manifold.retr_coordinates(base, free)  # whose second derivative is the retraction's own
            (gradient,) = torch.autograd.grad(weight, free, g, create_graph=create_graph)
        return gradient, None, None


def require_shape(like: Tensor, weight: Tensor) -> None:
    """Raise unless ``weight`` can replace ``like``."""
    if weight.shape != like.shape:
        raise OptionError(
            f"The assigned weight must keep its shape.\nExpected {tuple(like.shape)}, got {tuple(weight.shape)}.\n"
            "Build a new module for another size."
        )
