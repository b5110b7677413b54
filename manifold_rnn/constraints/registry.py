"""The record, kept by each module, of which of its weights are constrained and how."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import nn

from ..errors import OptionError


@runtime_checkable
class Checked(Protocol):
    """An entry that looks at a state dict before its module is loaded."""

    def check(self, state: dict[str, Any], prefix: str, own: str, module: nn.Module) -> None:
        """Let a loaded weight pass, project it inside ``state``, or raise; ``prefix`` is that of the module."""


class Registry(nn.ModuleDict):
    """The child module ``constraints`` of a constrained module: an entry for each constrained weight, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.positions: dict[str, int] = {}  # where among the parameters a trivialized weight has its place


def registry(module: nn.Module) -> Registry | None:
    """Return the registry of a module, or None if it owns no constrained weight."""
    for name in ("constraints", "_constraints"):
        if isinstance(child := module._modules.get(name), Registry):
            return child
    return None


def check_loaded(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Check what is about to be loaded into a module, before any of it is: the load pre-hook of either view."""
    for name, child in module.named_children():
        if isinstance(child, Registry):
            for key, entry in child.items():
                if isinstance(entry, Checked):
                    entry.check(state, prefix, f"{prefix}{name}.{key}.", module)


def entry_of(module: nn.Module, name: str) -> nn.Module:
    """Return the entry of one constrained weight."""
    entries = registry(module)
    if entries is None or name not in entries:
        found = "none" if entries is None else ", ".join(entries)
        raise OptionError(
            f"{type(module).__name__} has no constrained weight {name!r}.\nConstrained here: {found}.\n"
            "Call constrain first, or pass the module that owns the weight."
        )
    return entries[name]


def register(module: nn.Module, name: str, entry: nn.Module) -> Registry:
    """File an entry, in ``constraints``, or in ``_constraints`` where the module already has something of that name."""
    entries = registry(module)
    if entries is None:
        entries = Registry()
        module.add_module("_constraints" if hasattr(module, "constraints") else "constraints", entries)
    if not entries:
        module.register_load_state_dict_pre_hook(check_loaded)
    entries[name] = entry
    return entries


def unregister(module: nn.Module, name: str) -> None:
    """Strike an entry out, and with the last one the registry."""
    entries = registry(module)
    assert entries is not None
    del entries[name]
    if not entries:
        drop_hook(module._load_state_dict_pre_hooks, check_loaded)
        for key in [key for key, child in module._modules.items() if child is entries]:
            del module._modules[key]


def drop_hook(hooks: dict[int, Any], hook: Callable[..., object]) -> list[int]:
    """Remove ``hook`` from a table of hooks, found by itself: a handle would not survive a copy of its module."""
    keys = [key for key, value in hooks.items() if getattr(value, "hook", value) is hook]
    for key in keys:
        del hooks[key]
    return keys
