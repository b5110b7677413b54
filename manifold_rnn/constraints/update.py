"""The update view: the weight stays the parameter, and learns on which manifold it lives."""

from typing import Any

import geoopt
import torch
from torch import Tensor, nn

from ..errors import UnsupportedError
from ..manifolds import Manifold
from . import hooks
from .admission import admitted
from .registry import drop_hook, register, registry, unregister


class Update(nn.Module):
    """Registry entry of a weight in the update view; ``parameter.manifold`` mirrors its ``manifold``."""

    def __init__(self, name: str, manifold: Manifold, on_load: str) -> None:
        super().__init__()
        self.name, self.manifold, self.on_load = name, manifold, on_load
        hooks.track(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        hooks.track(self)

    def extra_repr(self) -> str:
        """Say which view this is."""
        return 'view="update"'

    def upgrade(self, module: nn.Module) -> None:
        """Give the parameter its class and manifold where ``assign=True`` or a move from meta has taken them away."""
        parameter: Any = module._parameters[self.name]
        kind = type(parameter)
        if kind is geoopt.ManifoldParameter:
            return
        if kind is nn.Parameter:  # a wider test would catch the stand-ins of torch.export
            parameter.__class__ = geoopt.ManifoldParameter
            parameter.manifold = self.manifold
        else:
            refuse_sharded(parameter, self.name)

    def set_manifold(self, module: nn.Module, manifold: Manifold) -> None:
        """Put the same point onto another manifold, or the same one with another retraction."""
        self.upgrade(module)
        parameter: Any = module._parameters[self.name]
        self.manifold = parameter.manifold = manifold

    def check(self, state: dict[str, Any], prefix: str, own: str, module: nn.Module) -> None:
        """Let a loaded weight pass, project it inside ``state``, or raise."""
        key, like = prefix + self.name, module._parameters[self.name]
        if key in state and like is not None:
            state[key] = admitted(self.manifold, state[key], like, key, project=self.on_load == "project")


def attach(module: nn.Module, entry: Update, value: Tensor) -> None:
    """Make ``module.<name>`` a point: set its value, its class and the hooks that keep both."""
    parameter: Any = module._parameters[entry.name]
    with torch.no_grad():
        parameter.copy_(value)
    if _upgrade not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_upgrade, prepend=True)
        module.register_load_state_dict_post_hook(_upgrade)
    register(module, entry.name, entry)
    entry.set_manifold(module, entry.manifold)


def detach(module: nn.Module, entry: Update) -> None:
    """Undo `attach`; the value stays."""
    entry.upgrade(module)
    parameter: Any = module._parameters[entry.name]
    parameter.__class__ = nn.Parameter
    del parameter.manifold
    unregister(module, entry.name)
    if not any(isinstance(other, Update) for other in (registry(module) or {}).values()):
        drop_hook(module._forward_pre_hooks, _upgrade)
        drop_hook(module._load_state_dict_post_hooks, _upgrade)


def refuse_sharded(parameter: Tensor | None, name: str) -> None:
    """Raise for a DTensor: a shard of a point is not a point."""
    if any(kind.__name__ == "DTensor" for kind in type(parameter).__mro__):
        raise UnsupportedError(
            f"{name} is a DTensor, and a shard of a point on a manifold is not a point.\n"
            "Expected a whole parameter on each rank; got one sharded by FSDP2 or tensor parallelism.\n"
            "Leave this module out of sharding (ignored_params), or use DistributedDataParallel."
        )


def _upgrade(module: nn.Module, *_: object) -> None:
    if torch.compiler.is_compiling():
        return
    for entry in (registry(module) or {}).values():
        if isinstance(entry, Update):
            entry.upgrade(module)
