"""The update view: the weight stays the module's parameter, and carries its manifold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

import geoopt
import torch
from torch import Tensor, nn
from torch.__future__ import get_overwrite_module_params_on_conversion, get_swap_module_params_on_conversion

from .._torch import drop_hook, sees_every_step
from ..errors import OptionError, UnsupportedError
from ..manifolds import Manifold
from ..manifolds.adapted import Point
from ..retractions import Retraction, get
from . import optimizer_hooks
from .membership import measured_defect, projected, require_member, require_on_manifold, widened_point
from .parametrization import Parametrization, require_shape
from .registry import entries, register, unregister


class Update(Parametrization):
    """A weight that is a point, which a Riemannian optimizer moves; ``parameter.manifold`` mirrors `manifold`.

    Parameters
    ----------
    module : nn.Module
        The owner of the weight. Its table of parameters is kept, not the module: a copy of the module copies both.
    name : str
        Of the weight.
    manifold : Manifold
    on_load : "raise" or "project"
        What to do with a loaded weight that is off the manifold.

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Orthogonal())
    >>> assert layer.constraints["weight"]() is layer.weight
    """

    is_stored_by_module = True
    takes_complex32 = True
    _table: dict[str, nn.Parameter | None]

    def __init__(self, module: nn.Module, name: str, manifold: Manifold, on_load: str) -> None:
        super().__init__()
        self.look_into(module._parameters)
        self._replaced = False  # by a conversion of the module, which makes a new parameter
        self._converted = False  # since somebody has looked at the weight
        self.name, self.manifold, self.on_load = name, manifold, on_load

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)
        self.refresh()

    def look_into(self, table: dict[str, nn.Parameter | None]) -> None:
        self._table = table

    def extra_repr(self) -> str:
        return 'view="update"'

    def forward(self) -> Tensor:
        """Return the weight, which is the parameter itself."""
        return self._weight

    @property
    def watched(self) -> nn.Parameter | None:
        """The weight; a plain optimizer that holds it is refused. None if something has taken it from the module."""
        return self._table.get(self.name)

    @property
    def _weight(self) -> nn.Parameter:
        weight = self.watched
        if weight is None:
            raise OptionError(
                f"The constrained weight {self.name!r} is no parameter of its module any more.\n"
                "Expected the parameter that was constrained; it was deleted, or another tool took its place.\n"
                "Release it before, and constrain it again after."
            )
        return weight

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Make ``weight``, a point on the manifold, the value of the parameter."""
        require_shape(self._weight, weight)
        self._weight.copy_(require_member(self.manifold, weight, self._weight, "the assigned weight"))

    @torch.no_grad()
    def assign_nearest(self, weight: Tensor) -> None:
        self._weight.copy_(projected(self.manifold, weight))

    @property
    def weight_dtype(self) -> torch.dtype:
        return self._weight.dtype

    def defect(self) -> Tensor:
        return measured_defect(self.manifold, self._weight)

    def dimensions(self) -> dict[nn.Parameter, int]:
        p = self.watched
        return {} if p is None else {p: self.manifold.degrees_of_freedom(tuple(p.shape), p.dtype)}

    def degrees_of_freedom(self) -> int:
        return sum(count for p, count in self.dimensions().items() if p.requires_grad)

    @property
    def retraction(self) -> Retraction | None:
        return self.manifold.retraction

    def set_retraction(self, retraction: Retraction | str) -> None:
        self.manifold = self.manifold.with_retraction(get(retraction))
        self.mark()

    def mark(self) -> None:
        """Make the parameter a point on the manifold: its class and its attribute ``manifold``."""
        self.refresh()
        point: geoopt.ManifoldParameter = self._weight
        point.manifold = self.manifold

    def refresh(self) -> None:
        """Give the parameter its class and manifold where it is new, as after a move from meta."""
        point: geoopt.ManifoldParameter = self.watched
        if type(point) in (nn.Parameter, geoopt.ManifoldParameter):  # not the stand-ins of torch.export
            point.__class__ = Point
            point.manifold = self.manifold
            optimizer_hooks.forget()
        elif type(point) is not Point:
            refuse_sharded(point, self.name)

    def before_forward(self, table: dict[str, nn.Parameter | None]) -> None:
        """Say what has taken the weight; mark it where a conversion of the module has replaced it.

        A new parameter otherwise is marked when an optimizer steps, if it is still there then: one that
        `torch.func.functional_call` lends to the module for one forward is somebody else's, and stays so.
        """
        if table:  # a replica of DataParallel has none
            self._table = table
        kind, replaced = type(self._table.get(self.name)), self._replaced
        if replaced:
            self._replaced = False
        if kind is nn.Parameter and not replaced:
            optimizer_hooks.forget()
        elif kind is nn.Parameter:
            self.refresh()
        elif kind is not Point:
            refuse_sharded(self._weight, self.name)
        if self._converted and kind in (Point, nn.Parameter) and not sees_every_step():
            self._converted = False
            self.require_point()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Called before the module converts the weight."""
        super()._apply(fn, recurse)
        weight, kind = self._weight, type(self._weight)
        like = fn(torch.empty(0, dtype=weight.dtype, device=weight.device))
        if not like.is_meta:
            weight.data = widened_point(self.manifold, weight.data.to(like.dtype), weight.dtype)
        self._converted = True
        if get_swap_module_params_on_conversion() and kind is Point:
            weight.__class__ = nn.Parameter  # torch swaps no others; the next forward or step marks it again
        self._replaced |= get_swap_module_params_on_conversion() or get_overwrite_module_params_on_conversion()
        self._replaced |= like.is_meta != weight.is_meta
        return self

    def require_point(self) -> None:
        """Raise if the weight has been overwritten by something that is not on the manifold."""
        require_on_manifold(self.manifold, self._weight, repr(self.name))

    def check(self, loaded: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
        project = self.on_load == "project"
        # a parameter of somebody else's that is assigned would become a point: its values are enough
        plain = {k: v.detach() if isinstance(v, nn.Parameter) else v for k, v in loaded.items()}
        return {k: require_member(self.manifold, v, self._weight, path + k, project=project) for k, v in plain.items()}


def attach(module: nn.Module, entry: Update, start: Tensor) -> None:
    """Make ``module.<name>`` a point: set its value, its class and the hooks that keep both."""
    register(module, entry.name, entry)
    if _before_forward not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_before_forward, prepend=True)
        module.register_load_state_dict_post_hook(_refresh)
    with torch.no_grad():
        entry().copy_(start)
    entry.mark()


def detach(module: nn.Module, name: str, entry: Parametrization) -> None:
    """Undo `attach`; the value stays."""
    entry.look_into(module._parameters)
    entry.refresh()
    if entry.watched is not None:
        point: geoopt.ManifoldParameter = entry.watched
        point.__class__ = nn.Parameter
        del point.manifold
    optimizer_hooks.forget()
    unregister(module, name)
    if not any(other.is_stored_by_module for other in entries(module).values()):
        drop_hook(module._forward_pre_hooks, _before_forward)
        drop_hook(module._load_state_dict_post_hooks, _refresh)


def refuse_sharded(parameter: Tensor | None, name: str) -> None:
    """Raise for a DTensor: a shard of a point is not a point."""
    if any(kind.__name__ == "DTensor" for kind in type(parameter).__mro__):
        raise UnsupportedError(
            f"{name} is a DTensor, and a shard of a point on a manifold is not a point.\n"
            "Expected a whole parameter on each rank; got one sharded by FSDP2 or tensor parallelism.\n"
            "Leave this module out of sharding (ignored_params), or use DistributedDataParallel."
        )


def _refresh(module: nn.Module, *_: object) -> None:
    for entry in entries(module).values():
        entry.look_into(module._parameters)
        entry.refresh()


def _before_forward(module: nn.Module, *_: object) -> None:
    if torch.compiler.is_compiling():
        return
    for entry in entries(module).values():
        entry.before_forward(module._parameters)
