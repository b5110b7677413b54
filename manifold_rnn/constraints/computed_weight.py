"""A weight that is computed when it is read: a property of a generated subclass of its module's class."""

import functools
import weakref
from collections.abc import Callable, Hashable
from typing import Any, NoReturn, SupportsIndex, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from .._torch import is_lent, is_transformed
from ..errors import OptionError, UnsupportedError
from . import optimizer_hooks
from .parametrization import Parametrization
from .registry import entries, entry_of, own_class, register, registry, unregister
from .scope import evaluate, scope, unscope_if_free

# These classes read the weight once per forward: a scope would save nothing, and torch's hooks cost time.
_READ_ONCE = (nn.Linear, nn.Bilinear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def attach(module: nn.Module, name: str, entry: Parametrization) -> None:
    """Make ``module.<name>`` a property that returns ``entry()``."""
    weight = module._parameters[name]
    assert weight is not None
    register(module, name, entry).extend_order(module._parameters)
    optimizer_hooks.replace(weight, _current(module, name), name, by="constrain")
    entry.gradient_hooks = weight._backward_hooks
    del module._parameters[name]
    module.__dict__.pop("_flat_weights", None)
    _specialize(module)
    if own_class(module) not in _READ_ONCE:
        scope(module)


def detach(module: nn.Module, name: str, weight: Tensor) -> None:
    """Undo `attach`: put a dense parameter behind those that were before the weight."""
    held = registry(module)
    assert held is not None
    entry = held[name]
    dense = nn.Parameter(weight.detach().clone(), requires_grad=entry.is_trained)
    if entry.gradient_hooks:
        dense._backward_hooks = entry.gradient_hooks
    for p in entry.parameters():
        optimizer_hooks.replace(p, _current(module, name), name, by="release")
    unregister(module, name)
    _specialize(module)
    parameters = list(module._parameters.items())
    before = held.order[: held.order.index(name)]
    position = max((i for i, (other, _) in enumerate(parameters, 1) if other in before), default=0)
    parameters.insert(position, (name, dense))
    module._parameters.clear()
    module._parameters.update(parameters)
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()
    unscope_if_free(module)


def _current(module: nn.Module, name: str) -> Callable[[], list[Tensor]]:
    """Return a function that returns the parameters of a weight at the time of the call, constrained or not."""
    reference = weakref.ref(module)

    def current() -> list[Tensor]:
        if (alive := reference()) is None:
            return []
        if (entry := entries(alive).get(name)) is not None and not entry.is_stored_by_module:
            return list(entry.parameters())
        weight = alive._parameters.get(name)
        return [] if weight is None else [weight]

    return current


def _specialize(module: nn.Module) -> None:
    """Give the module a class with a property for each computed weight, or its original class if there is none."""
    names = tuple(sorted(name for name, entry in entries(module).items() if not entry.is_stored_by_module))
    own, before = own_class(module), type(module)
    linear = own.forward is nn.Linear.forward and "weight" in names and entry_of(module, "weight").has_linear
    kind = _subclass(cast(Hashable, own), names, linear) if names else own
    if is_parametrized(module):  # torch expects its class outermost; copies of the module share that class
        body = {key: value for key, value in vars(before).items() if key not in ("__dict__", "__weakref__")}
        kind = type(f"Parametrized{kind.__name__}", (kind,), body)
    module.__class__ = kind
    module._parameters = _Table(module._parameters) if names else dict(module._parameters)
    for entry in entries(module).values():
        entry.look_into(module._parameters)
    if isinstance(module._parameters, _Table):
        module._parameters.computed = names


class _Table(dict[str, nn.Parameter | None]):
    """The parameters of a module. Its `KeyError` for a computed weight says why the weight is not a parameter."""

    computed: tuple[str, ...] = ()

    def __missing__(self, name: str) -> NoReturn:
        if name not in self.computed:
            raise KeyError(name)
        raise OptionError(
            f"The constrained weight {name!r} is computed, so it is not a parameter of its module.\n"
            "Expected a tool that reads the weight; got one that removes or replaces the parameter.\n"
            "Call manifold_rnn.release first, assign a tensor, or do not apply the tool to this weight."
        )

    def __delitem__(self, name: str) -> None:
        _ = self[name]
        super().__delitem__(name)


@functools.cache
def _subclass(own: Hashable, names: tuple[str, ...], linear: bool) -> type[nn.Module]:
    assert isinstance(own, type) and issubclass(own, nn.Module)

    def reduce(module: nn.Module, protocol: SupportsIndex) -> tuple[object, ...]:
        state = own.__reduce_ex__(module, max(2, int(protocol)))[2:]
        return _blank, (own, names, linear), *state

    def init(module: nn.Module, *args: Any, **options: Any) -> None:
        """Turn another module that a method makes of its own class into one without constraints."""
        if issubclass(own, nn.ParameterList):
            raise UnsupportedError(
                "A slice of a ParameterList would copy its computed weights, and training would not reach the copies.\n"
                f"Expected an index; got a slice of a list with the constrained weights {', '.join(names):.60}.\n"
                "Index the weights one by one, or call manifold_rnn.release first."
            )
        object.__setattr__(module, "__class__", own)
        own.__init__(module, *args, **options)

    def register_parameter(module: nn.Module, name: str, value: nn.Parameter | None) -> None:
        if name in names:
            raise _copies_numbers(module, name)
        if (weight := name.removesuffix("_orig")) in names:  # pruning moves the parameter to this name
            del module._parameters[weight]  # raises and says why
        own.register_parameter(module, name, value)

    body: dict[str, Any] = {name: _weight(name) for name in names}
    body |= {"__init__": init, "register_parameter": register_parameter}
    body |= {"_own_class": own, "__reduce_ex__": reduce, "__module__": own.__module__}
    if issubclass(own, nn.RNNBase):
        keep: Callable[[nn.RNNBase], None] = lambda module: None  # noqa: E731 - the flat weights are always recomputed
        body |= {"_flat_weights": property(_flat_weights), "_init_flat_weights": keep, "_update_flat_weights": keep}
        body["__setattr__"] = nn.Module.__setattr__  # that of RNNBase would compute every weight to store one
    if linear:
        body["forward"] = _linear
    return type(f"Constrained{own.__name__}", (own,), body)


def _blank(own: Hashable, names: tuple[str, ...], linear: bool) -> nn.Module:
    kind = _subclass(own, names, linear)
    return kind.__new__(kind)


def _weight(name: str) -> property:
    def read(module: nn.Module) -> Tensor:
        return evaluate(entry_of(module, name), module, name)

    def write(module: nn.Module, weight: Tensor) -> None:
        if not isinstance(weight, Tensor):
            del module._parameters[name]  # raises and says why
        if (weight.requires_grad and torch.is_grad_enabled()) or is_transformed() or is_lent():
            raise _copies_numbers(module, name)
        entry_of(module, name).assign(weight)

    def delete(module: nn.Module) -> None:
        del module._parameters[name]  # raises and says why

    return property(read, write, delete, doc="The constrained weight, computed from its free parameters.")


def _copies_numbers(module: nn.Module, name: str) -> OptionError:
    held, entry = registry(module), entry_of(module, name)
    child = next(key for key, value in module._modules.items() if value is held)
    names = [f"{child}.{name}.{key}" for key, _ in entry.named_parameters()]
    return OptionError(
        f"Assigning to the constrained weight {name!r} copies its numbers into the module, without gradients.\n"
        "Expected a plain tensor; got a parameter, one with gradients, or one from torch.func. Nothing was changed.\n"
        f"Assign value.detach(), or give functional_call {' and '.join(names[:2])}."
    )


def _linear(module: nn.Linear, input: Tensor) -> Tensor:
    """Compute a linear layer from the factors of its weight, if that is less work."""
    entry = entry_of(module, "weight")
    if not entry.gradient_hooks and entry.prefers_linear(input):  # hooks need the gradient of the dense weight
        return entry.linear(input, module.bias)
    return nn.functional.linear(input, module.weight, module.bias)


def _flat_weights(module: nn.RNNBase) -> list[Tensor]:
    return [getattr(module, name) for name in module._flat_weights_names]
