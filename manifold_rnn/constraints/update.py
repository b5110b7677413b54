"""The update view: the weight stays the module's parameter and stores its manifold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

import geoopt
import torch
from torch import Tensor, nn
from torch.__future__ import get_overwrite_module_params_on_conversion, get_swap_module_params_on_conversion

from .._torch import dispatch_modes, drop_hook, is_sharded, makes_proxies, sees_every_step
from ..errors import OptionError, UnsupportedError
from ..manifolds import Manifold
from ..manifolds.adapted import Point
from ..retractions import Retraction, get
from . import optimizer_hooks
from .membership import measured_defect, projected, require_member, require_on_manifold, widened_point
from .parametrization import Parametrization, require_shape
from .registry import entries, register, unregister


class Update(Parametrization):
    """A weight that is a point on a manifold and is moved by a Riemannian optimizer.

    ``parameter.manifold`` is the attribute `manifold`.

    Parameters
    ----------
    module : nn.Module
        The owner of the weight. Only its table of parameters is stored, so a copy of the module copies both.
    name : str
        The name of the weight.
    manifold : Manifold
        The manifold of the weight.
    on_load : "raise" or "project"
        Whether to raise for a loaded weight that is off the manifold, or to project it.

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
        self._replaced = False  # whether a conversion of the module created a new parameter
        self._converted = False  # whether the weight was converted since its last check
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
        """The weight, since plain optimizers must not hold it. None if it was removed from the module."""
        return self._table.get(self.name)

    @property
    def _weight(self) -> nn.Parameter:
        weight = self.watched
        if weight is None:
            raise OptionError(
                f"The constrained weight {self.name!r} is no longer a parameter of its module.\n"
                "Expected the parameter that was constrained; it was deleted, or another tool replaced it.\n"
                "Release the weight first, use the tool, and constrain the weight again."
            )
        return weight

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Set the parameter to ``weight``, a point on the manifold."""
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
        """Mark the parameter as a point: set its class and its attribute ``manifold``."""
        self.refresh()
        point: geoopt.ManifoldParameter = self._weight
        point.manifold = self.manifold

    def refresh(self) -> None:
        """Mark the parameter if it is new, for example after a move from the meta device."""
        point: geoopt.ManifoldParameter = self.watched
        if type(point) in (nn.Parameter, geoopt.ManifoldParameter):  # not the placeholders of torch.export
            point.__class__ = Point
            point.manifold = self.manifold
            optimizer_hooks.forget()
        elif type(point) is not Point:
            refuse_sharded(point, self.name)

    def before_forward(self, table: dict[str, nn.Parameter | None]) -> None:
        """Raise if the weight was removed; mark it if a conversion of the module has replaced it.

        Other new parameters are marked when an optimizer steps, if they are still in the module. A parameter that
        `torch.func.functional_call` puts there for one forward belongs to its caller and stays unmarked.
        """
        if table:  # a replica of DataParallel has no parameters
            self._table = table
        kind, replaced = type(self._table.get(self.name)), self._replaced
        if dispatch_modes() and makes_proxies():
            if kind is Point:  # `make_fx` supports no such class; the next forward or step marks the weight again
                self._weight.__class__, self._replaced = nn.Parameter, True
            return
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
        """Prepare for a conversion; called before the module converts the weight."""
        super()._apply(fn, recurse)
        weight, kind = self._weight, type(self._weight)
        like = fn(torch.empty(0, dtype=weight.dtype, device=weight.device))
        if not like.is_meta:
            weight.data = widened_point(self.manifold, weight.data.to(like.dtype), weight.dtype)
        self._converted = True
        renews = get_swap_module_params_on_conversion() or get_overwrite_module_params_on_conversion()
        if renews and kind is Point:
            weight.__class__ = nn.Parameter  # torch renews only this class; the next forward or step marks it again
        self._replaced |= renews or like.is_meta != weight.is_meta
        return self

    def require_point(self) -> None:
        """Raise if the weight was overwritten by a value that is not on the manifold."""
        require_on_manifold(self.manifold, self._weight, repr(self.name))

    def check(self, loaded: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
        project = self.on_load == "project"
        # assigning a caller's parameter would turn it into a point, so only its values are used
        plain = {k: v.detach() if isinstance(v, nn.Parameter) else v for k, v in loaded.items()}
        return {k: require_member(self.manifold, v, self._weight, path + k, project=project) for k, v in plain.items()}


def attach(module: nn.Module, entry: Update, start: Tensor) -> None:
    """Make ``module.<name>`` a point: set its value and class, and register the hooks that maintain both."""
    register(module, entry.name, entry)
    if _before_forward not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_before_forward, prepend=True)
        module.register_load_state_dict_post_hook(_refresh)
    with torch.no_grad():
        entry().copy_(start)
    entry.mark()


def detach(module: nn.Module, name: str, entry: Parametrization) -> None:
    """Undo `attach` and keep the value."""
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
    if is_sharded(parameter):
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
