"""One pair of hooks on every optimizer: names those that would break a constraint, and moves bases on time."""

import functools
import threading
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import geoopt
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from .._torch import uncompiled
from ..errors import OptimizerError

_tracked: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
_warned: "weakref.WeakSet[Optimizer]" = weakref.WeakSet()
_lock = threading.Lock()


def track(entry: nn.Module) -> None:
    """Watch the optimizers of this process on behalf of a registry entry."""
    with _lock:
        _tracked.add(entry)
    _install()


@functools.cache
def _install() -> None:
    register_optimizer_step_pre_hook(_before_step)
    register_optimizer_step_post_hook(_after_step)


def _before_step(optimizer: Optimizer, args: object, kwargs: object) -> None:
    if torch.compiler.is_compiling():
        return
    if not _moves_on_manifolds(type(optimizer)):
        for group, index, p in _parameters(optimizer):
            if type(p) is not nn.Parameter and p.requires_grad and _is_curved(p):
                raise _off_manifold(optimizer, group, index, p)
    if optimizer not in _warned and (advice := _advice(optimizer)):
        _warned.add(optimizer)
        warnings.warn(advice, UserWarning, stacklevel=4)


def _after_step(optimizer: Optimizer, args: object, kwargs: object) -> None:
    if any(getattr(entry, "watches_steps", False) for entry in _entries()):
        _count(optimizer)


@uncompiled
def _count(optimizer: Optimizer) -> None:
    entries = _trivializations()
    for _, _, p in _parameters(optimizer):
        if id(p) in entries and p.grad is not None:
            entries[id(p)].step()


def _advice(optimizer: Optimizer) -> str:
    name, history = type(optimizer).__name__, type(optimizer).__mro__
    forgetful = any(kind.__name__ in _FORGETFUL for kind in history)
    if not forgetful and not any(group.get("weight_decay") for group in optimizer.param_groups):
        return ""
    entries = _trivializations()
    for index, group in enumerate(optimizer.param_groups):
        held = [entries[id(p)] for p in group["params"] if id(p) in entries]
        if held and group.get("weight_decay"):
            return (
                f"{name} decays the coordinates of a constrained weight in parameter group {index}, which pulls the "
                f"weight towards its base. Split group {index}: put its coordinates into one with weight_decay=0."
            )
        if forgetful and any(entry.rebase_every for entry in held):
            return (
                f"{name} remembers coordinates, in parameter group {index}, that mean another weight after a rebase. "
                "Use rebase_every=None, or an optimizer such as Adam or SGD."
            )
    return ""


_FORGETFUL = ("ASGD", "Rprop", "LBFGS")


def _off_manifold(optimizer: Optimizer, group: int, index: int, p: Tensor) -> OptimizerError:
    return OptimizerError(
        f"{type(optimizer).__name__} would move the weight {_name(optimizer, group, index, p)} off its manifold "
        f"(parameter {index} of group {group}, shape {tuple(p.shape)}).\n"
        "Expected a Riemannian optimizer, got a plain one. Nothing was changed.\n"
        'Use manifold_rnn.optim or geoopt.optim, or constrain with view="trivialized".'
    )


def _name(optimizer: Optimizer, group: int, index: int, p: Tensor) -> str:
    if names := optimizer.param_groups[group].get("param_names"):
        return repr(names[index])
    manifold = getattr(p, "manifold", None)
    entries = [entry for entry in _entries() if not hasattr(entry, "coordinates")]
    return " or ".join(sorted({repr(entry.name) for entry in entries if entry.manifold is manifold})[:3])


def _parameters(optimizer: Optimizer) -> Iterator[tuple[int, int, Tensor]]:
    for group, options in enumerate(optimizer.param_groups):
        for index, p in enumerate(options["params"]):
            yield group, index, p


def _entries() -> list[Any]:
    with _lock:
        return list(_tracked)


def _trivializations() -> dict[int, Any]:
    return {id(entry.coordinates): entry for entry in _entries() if hasattr(entry, "coordinates")}


def _moves_on_manifolds(kind: type[Optimizer]) -> bool:
    return getattr(kind, "moves_on_manifolds", False) or any(k.__module__.startswith("geoopt.") for k in kind.__mro__)


def _is_curved(p: Tensor) -> bool:
    manifold = getattr(p, "manifold", None)
    return manifold is not None and not isinstance(manifold, geoopt.Euclidean)
