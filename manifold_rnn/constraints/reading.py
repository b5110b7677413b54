"""A weight that is computed when it is read: a property on a generated subclass of its module's class."""

import functools
from typing import Any

from torch import Tensor, nn

from .registry import entry_of, register, registry, unregister
from .scope import evaluate, scope, unscope_if_free


def attach(module: nn.Module, name: str, entry: nn.Module) -> None:
    """Make ``module.<name>`` a property that reads ``entry()``."""
    register(module, name, entry).positions[name] = list(module._parameters).index(name)
    del module._parameters[name]
    module.__dict__.pop("_flat_weights", None)
    _specialize(module)
    scope(module)


def detach(module: nn.Module, name: str, weight: Tensor) -> None:
    """Undo `attach`, with a dense parameter at its old place."""
    entries = registry(module)
    assert entries is not None
    position, trainable = entries.positions.pop(name), any(p.requires_grad for p in entries[name].parameters())
    unregister(module, name)
    _specialize(module)
    kept = list(module._parameters.items())
    kept.insert(position, (name, nn.Parameter(weight.detach().clone(), requires_grad=trainable)))
    module._parameters.clear()
    module._parameters.update(kept)
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()
    unscope_if_free(module)


def _plain_class(module: nn.Module) -> Any:
    return getattr(type(module), "_plain", type(module))


def _specialize(module: nn.Module) -> None:
    names = tuple(sorted(n for n in registry(module) or () if n not in module._parameters))
    plain = _plain_class(module)
    module.__class__ = _subclass(plain, names) if names else plain


@functools.cache
def _subclass(plain: Any, names: tuple[str, ...]) -> type[nn.Module]:
    def reduce(module: nn.Module, protocol: Any) -> Any:
        _, _, *state = plain.__reduce_ex__(module, max(2, protocol))
        return _blank, (plain, names), *state

    body: dict[str, Any] = {name: _weight(name) for name in names}
    body |= {"_plain": plain, "__reduce_ex__": reduce, "__module__": plain.__module__}
    if issubclass(plain, nn.RNNBase):
        body |= {"_flat_weights": property(_flat_weights), "_init_flat_weights": _keep, "_update_flat_weights": _keep}
        body["__setattr__"] = nn.Module.__setattr__  # theirs would compute every weight to store one
    return type(f"Constrained{plain.__name__}", (plain,), body)


def _blank(plain: Any, names: tuple[str, ...]) -> nn.Module:
    kind = _subclass(plain, names)
    return kind.__new__(kind)


def _weight(name: str) -> property:
    def read(module: nn.Module) -> Tensor:
        return evaluate(entry_of(module, name))

    def write(module: nn.Module, weight: Tensor) -> None:
        entry_of(module, name).assign(weight)  # type: ignore[operator]

    return property(read, write, doc="The constrained weight, computed from its free parameters.")


def _flat_weights(module: nn.RNNBase) -> list[Tensor]:
    return [getattr(module, name) for name in module._flat_weights_names]


def _keep(module: nn.RNNBase) -> None:
    """Leave the flat weights alone: they are read afresh."""
