"""The record that each module keeps of its constrained weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from .._torch import drop_hook
from ..errors import OptionError
from .parametrization import Parametrization


class Registry(nn.ModuleDict):
    """The child module ``constraints`` of a constrained module. It maps each weight's name to its `Parametrization`."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []  # the names of the parameters, with those that are computed now

    def __getitem__(self, key: str) -> Parametrization:
        entry = super().__getitem__(key)
        assert isinstance(entry, Parametrization)
        return entry

    def extend_order(self, names: Iterable[str]) -> None:
        """Append names of parameters that are new."""
        self.order += [name for name in names if name not in self.order]

    def entries(self) -> dict[str, Parametrization]:
        """Return the parametrization of each weight, by name."""
        return {name: entry for name, entry in self._modules.items() if isinstance(entry, Parametrization)}


def registry(module: nn.Module) -> Registry | None:
    """Return the registry of a module, or None if it owns no constrained weight."""
    for name in ("constraints", "_constraints"):
        if isinstance(child := module._modules.get(name), Registry):
            return child
    return None


def own_class(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module without those that this package and torch's parametrizations generate around it."""
    kind = type_before_parametrizations(module)
    own: type[nn.Module] = vars(kind).get("_own_class", kind)
    return own


def entries(module: nn.Module) -> dict[str, Parametrization]:
    """Return the parametrizations of the weights that a module owns, by the weight's name."""
    held = registry(module)
    return {} if held is None else held.entries()


def parametrizations(model: nn.Module) -> Iterator[tuple[str, Parametrization]]:
    """Yield the parametrization of every constrained weight in a model, with the full name of the weight.

    Parameters
    ----------
    model : nn.Module
        A model with constrained weights.

    Yields
    ------
    name : str
        The full name, such as ``"0.weight"``.
    parametrization : Parametrization
        The entry of ``constraints`` for this weight.

    Examples
    --------
    >>> model = torch.nn.Sequential(mr.constrain(torch.nn.Linear(2, 2), "weight", mr.Orthogonal()))
    >>> assert [name for name, _ in mr.constraints.parametrizations(model)] == ["0.weight"]
    """
    for path, module in model.named_modules():
        for name, entry in entries(module).items():
            yield f"{path}.{name}" if path else name, entry


def check_loaded(
    module: nn.Module, state: dict[str, Any], prefix: str, metadata: Mapping[str, Any] | None = None, *_: object
) -> None:
    """Check values before they are loaded into a module. This is the load pre-hook of both views."""
    assigned = bool(metadata and metadata.get("assign_to_params_buffers"))  # then a parameter also takes the dtype
    for child_name, child in module.named_children():
        if isinstance(child, Registry):
            for name, entry in child.entries().items():
                path = prefix if entry.is_stored_by_module else f"{prefix}{child_name}.{name}."
                own = [prefix + name] if entry.is_stored_by_module else [k for k in state if k.startswith(path)]
                loaded: dict[str, Tensor] = {k.removeprefix(path): state[k] for k in own if k in state}
                for k, value in entry.check(loaded, path).items():
                    keep = assigned and isinstance(value, Tensor)
                    state[path + k] = value.to(loaded[k].dtype) if keep else value


def entry_of(module: nn.Module, name: str) -> Parametrization:
    """Return the parametrization of one constrained weight."""
    held = registry(module)
    entry = None if held is None else held._modules.get(name)  # without method calls, since it runs at every read
    if not isinstance(entry, Parametrization):
        raise OptionError(
            f"{type(module).__name__} has no constrained weight {name!r}.\n"
            f"Constrained here: {', '.join(held or ()) or 'none'}.\n"
            "Call constrain first, or pass the module that owns the weight."
        )
    return entry


def register(module: nn.Module, name: str, entry: Parametrization) -> Registry:
    """Add an entry to ``constraints``, or to ``_constraints`` if the module already has an attribute of that name."""
    held = registry(module)
    if held is None:
        held = Registry()
        try:
            module.add_module("constraints", held)
        except KeyError:  # the module, or one that it delegates attributes to, already uses the name
            module.add_module("_constraints", held)
    if not held:
        module.register_load_state_dict_pre_hook(check_loaded)
    held[name] = entry
    return held


def unregister(module: nn.Module, name: str) -> None:
    """Remove an entry, and the registry itself if it was the last one."""
    held = registry(module)
    assert held is not None
    del held[name]
    if not held:
        drop_hook(module._load_state_dict_pre_hooks, check_loaded)
        for key in [key for key, child in module._modules.items() if child is held]:
            del module._modules[key]
