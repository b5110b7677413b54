"""The record, kept by each module, of which of its weights are constrained and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from .._torch import drop_hook
from ..errors import OptionError
from .parametrization import Parametrization


class Registry(nn.ModuleDict):
    """The child module ``constraints`` of a constrained module: a `Parametrization` for each weight, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.positions: dict[str, int] = {}  # where among the parameters a computed weight has its place

    def __getitem__(self, key: str) -> Parametrization:
        entry = super().__getitem__(key)
        assert isinstance(entry, Parametrization)
        return entry

    def entries(self) -> dict[str, Parametrization]:
        """Each weight's name and parametrization."""
        return {name: entry for name, entry in self._modules.items() if isinstance(entry, Parametrization)}


def registry(module: nn.Module) -> Registry | None:
    """Return the registry of a module, or None if it owns no constrained weight."""
    for name in ("constraints", "_constraints"):
        if isinstance(child := module._modules.get(name), Registry):
            return child
    return None


def entries(module: nn.Module) -> dict[str, Parametrization]:
    """Return the parametrizations of the weights that a module owns, by the weight's name."""
    held = registry(module)
    return {} if held is None else held.entries()


def parametrizations(model: nn.Module) -> Iterator[tuple[str, Parametrization]]:
    """The parametrization of every constrained weight in a model, by the full name of the weight.

    Parameters
    ----------
    model : nn.Module

    Yields
    ------
    name : str
    parametrization : Parametrization

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
    """Check what is about to be loaded into a module, before any of it is: the load pre-hook of either view."""
    assigned = bool(metadata and metadata.get("assign_to_params_buffers"))  # then a parameter takes the dtype as well
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
    entry = None if held is None else held._modules.get(name)  # without calls, for it runs at every read
    if not isinstance(entry, Parametrization):
        raise OptionError(
            f"{type(module).__name__} has no constrained weight {name!r}.\n"
            f"Constrained here: {', '.join(held or ()) or 'none'}.\n"
            "Call constrain first, or pass the module that owns the weight."
        )
    return entry


def register(module: nn.Module, name: str, entry: Parametrization) -> Registry:
    """File an entry, in ``constraints``, or in ``_constraints`` where the module already has something of that name."""
    held = registry(module)
    if held is None:
        held = Registry()
        try:
            module.add_module("constraints", held)
        except KeyError:  # the module, or one that it asks for missing attributes, has something of that name
            module.add_module("_constraints", held)
    if not held:
        module.register_load_state_dict_pre_hook(check_loaded)
    held[name] = entry
    return held


def unregister(module: nn.Module, name: str) -> None:
    """Strike an entry out, and with the last one the registry."""
    held = registry(module)
    assert held is not None
    del held[name]
    if not held:
        drop_hook(module._load_state_dict_pre_hooks, check_loaded)
        for key in [key for key, child in module._modules.items() if child is held]:
            del module._modules[key]
