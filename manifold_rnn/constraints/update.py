"""The update view: the weight stays the module's parameter, and carries its manifold."""

from __future__ import annotations

from collections.abc import Mapping

import geoopt
import torch
from torch import Tensor, nn

from .._torch import drop_hook
from ..errors import OptionError, UnsupportedError
from ..manifolds import Manifold
from ..retractions import Retraction, get
from . import optimizer_hooks
from .membership import measured_defect, require_member
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

    def __init__(self, module: nn.Module, name: str, manifold: Manifold, on_load: str) -> None:
        super().__init__()
        self._table: Mapping[str, nn.Parameter | None] = module._parameters
        self.name, self.manifold, self.on_load = name, manifold, on_load

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
        self.refresh(self._table)
        point: geoopt.ManifoldParameter = self._weight
        point.manifold = self.manifold

    def refresh(self, parameters: Mapping[str, nn.Parameter | None]) -> None:
        """Give the parameter its class and manifold where ``assign=True`` or a move from meta has taken them away."""
        self._table = parameters
        point: geoopt.ManifoldParameter = parameters.get(self.name)
        kind = type(point)
        if point is None or kind is geoopt.ManifoldParameter:
            return
        if kind is nn.Parameter:  # a wider test would catch the stand-ins of torch.export
            point.__class__ = geoopt.ManifoldParameter
            point.manifold = self.manifold
            optimizer_hooks.forget()
        else:
            refuse_sharded(point, self.name)

    def check(self, loaded: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
        project = self.on_load == "project"
        return {k: require_member(self.manifold, v, self._weight, path + k, project=project) for k, v in loaded.items()}


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
    entry.refresh(module._parameters)
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
        entry.refresh(module._parameters)


def _before_forward(module: nn.Module, *_: object) -> None:
    if torch.compiler.is_compiling():
        return
    for name, entry in entries(module).items():
        entry.refresh(module._parameters)
        if entry.is_stored_by_module and module._parameters.get(name) is None:
            entry()  # which says what is missing
