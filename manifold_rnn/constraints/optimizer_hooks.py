"""A pair of hooks on every optimizer. They refuse optimizers that would break a constraint, and move bases on time.

The verdict on an optimizer is cached until a constraint is attached or released, or the optimizer gets other
parameters. A step of a valid optimizer then costs one comparison of parameter identities.
"""

from __future__ import annotations

import functools
import gc
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.optim.swa_utils import AveragedModel

from .._torch import outer_steps, uncompiled
from ..errors import OptimizerError
from ..manifolds import manifold_of

# These optimizers store coordinates, whose meaning changes at a rebase.
_REMEMBER_COORDINATES = ("ASGD", "Rprop", "LBFGS")
_NO_AVERAGE = (
    "torch's AveragedModel averages the entries of points, or coordinates of different bases: the result is not a "
    'constrained weight.\nExpected view="trivialized" with rebase_every=None, or manifold_rnn.optim.average(model, '
    "decay=...), which averages the weights and projects them."
)


class Watched(Protocol):
    """The part of `Parametrization` that the hooks use."""

    name: str
    is_stored_by_module: ClassVar[bool]
    rebase_every: int | None
    lineage: int

    @property
    def watched(self) -> nn.Parameter | None: ...
    @property
    def counts_steps(self) -> bool: ...
    def after_step(self) -> None: ...
    def refresh(self) -> None: ...
    def require_point(self) -> None: ...


_tracked: weakref.WeakSet[Watched] = weakref.WeakSet()
_warned: weakref.WeakSet[Optimizer] = weakref.WeakSet()
_lock = threading.Lock()
_changes = 0  # grows whenever a parametrization is made, or a parameter becomes a point


def track(entry: Watched) -> None:
    """Watch the optimizers of this process for a parametrization."""
    with _lock:
        _tracked.add(entry)
    forget()
    _install()


class _Counter:
    """Counts optimizer steps, since fused optimizers do not change the version of a parameter."""

    steps = 0


counter = _Counter()


class _Replaced:
    """A parameter that its module no longer uses, the parameters that it uses now, and the function that did it."""

    def __init__(self, old: Tensor, current: Callable[[], list[Tensor]], name: str, by: str) -> None:
        self.old, self.current, self.name, self.by = weakref.ref(old), current, name, by
        self.holder: Callable[[], Optimizer | None] = lambda: None

    def strands(self, optimizer: Optimizer) -> bool:
        """Return whether no optimizer would train the weight, although ``optimizer`` has the old parameter."""
        new = {id(p) for p in self.current() if p.requires_grad}
        if not new:
            return False
        for holder in (self.holder(), optimizer):
            if holder is not None and _holds(holder, new):
                return False
        # all objects are searched only here, where the step would otherwise be refused
        others = [each for each in gc.get_objects() if issubclass(type(each), Optimizer)]
        for holder in others:
            if "param_groups" in vars(holder) and _holds(holder, new):  # one that raised in its constructor has none
                self.holder = weakref.ref(holder)
                return False
        return True


def _holds(optimizer: Optimizer, parameters: set[int]) -> bool:
    return any(id(p) in parameters for _, _, p in _parameters(optimizer))


_replaced: dict[int, _Replaced] = {}


def replace(old: Tensor, current: Callable[[], list[Tensor]], name: str, *, by: str) -> None:
    """Record that a module no longer uses ``old``, which optimizers may still hold.

    Parameters
    ----------
    old : Tensor
        The former parameter.
    current : callable
        Returns the parameters of the weight at the time of the call; they may be replaced again.
    name : str
        The name of the weight.
    by : {"constrain", "release"}
        The function that replaced it.
    """
    for key in [key for key, known in _replaced.items() if known.old() is None]:
        del _replaced[key]
    _replaced[id(old)] = _Replaced(old, current, name, by)
    forget()


def forget() -> None:
    """Drop all cached verdicts, because a parameter became a point or stopped being one."""
    global _changes
    _changes += 1


@functools.cache
def _install() -> None:
    register_optimizer_step_pre_hook(_before_step)
    register_optimizer_step_post_hook(_after_step)
    register_module_module_registration_hook(_note_average)


_averaged: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # model copies of torch's AveragedModel


def _note_average(module: nn.Module, name: str, child: nn.Module | None) -> None:
    """Record the model copy of an `AveragedModel`, and warn if averages of its parameters are off the manifold."""
    if child is None or not isinstance(module, AveragedModel):
        return
    if any(vars(kind).get("averages_weights", False) for kind in type(module).__mro__):
        return
    _averaged.add(child)
    forget()
    inside = set(map(id, child.modules()))
    if any(id(entry) in inside and entry.is_stored_by_module for entry in _entries()):
        warnings.warn(_NO_AVERAGE, UserWarning, stacklevel=4)


def _is_averaged(entry: Watched) -> bool:
    copies = (part for model in list(_averaged) for part in model.modules())
    return any(vars(part).get("lineage") == entry.lineage for part in copies)


class _Verdict:
    """The cached verdict on one optimizer. It is valid while its groups stay the same.

    It holds parameters by reference, so that no new one gets their identities. A weak reference would make
    ``torch.utils.swap_tensors`` fail.
    """

    def __init__(self, optimizer: Optimizer, state: tuple[object, ...]) -> None:
        self.state = state
        watched = {id(entry.watched): entry for entry in _entries() if entry.watched is not None}
        self.moved_freely: list[tuple[int, int, Tensor]] = []  # points in a plain optimizer
        self.entries: list[tuple[int, Tensor, weakref.ref[Watched]]] = []
        self.replaced: list[tuple[int, Tensor, _Replaced]] = []
        self.parameters = list(_parameters(optimizer))
        plain = not _moves_on_manifolds(type(optimizer))
        for group, index, p in self.parameters:
            if plain and type(p) is not nn.Parameter and manifold_of(p) is not None:
                self.moved_freely.append((group, index, p))
            if (known := _replaced.get(id(p))) is not None and known.old() is p:
                self.replaced.append((group, p, known))
            if (entry := watched.get(id(p))) is not None and not entry.is_stored_by_module:
                self.entries.append((group, p, weakref.ref(entry)))

    def held(self) -> Iterator[tuple[int, Tensor, Watched]]:
        """Yield the watched parameters of the optimizer that are still in use, with their groups."""
        for group, p, entry in self.entries:
            alive = entry()
            if alive is not None and alive.watched is p:
                yield group, p, alive


_verdicts: weakref.WeakKeyDictionary[Optimizer, _Verdict] = weakref.WeakKeyDictionary()


def _state(optimizer: Optimizer) -> tuple[object, ...]:
    """Return what the verdict depends on. Other tools change the class of a parameter and keep its identity."""
    groups = [group["params"] for group in optimizer.param_groups]
    return (_changes, *(tuple(map(id, params)) for params in groups), *(tuple(map(type, params)) for params in groups))


def _verdict(optimizer: Optimizer) -> _Verdict:
    verdict = _verdicts.get(optimizer)
    if verdict is None or verdict.state != _state(optimizer):
        points = renew(p for _, _, p in _parameters(optimizer))
        if _is_geoopts(type(optimizer)):  # the optimizers of this package check for themselves
            for entry in points:
                entry.require_point()
        verdict = _verdicts[optimizer] = _Verdict(optimizer, _state(optimizer))
    return verdict


def renew(parameters: Iterable[Tensor]) -> list[Watched]:
    """Mark parameters that other tools put in the place of constrained weights as points. Return all points."""
    identities = set(map(id, parameters))
    held = [entry for entry in _entries() if id(entry.watched) in identities]
    for entry in held:
        entry.refresh()
    return [entry for entry in held if entry.is_stored_by_module]


def _before_step(optimizer: Optimizer, args: object, kwargs: object) -> None:
    if torch.compiler.is_compiling():
        return
    verdict = _verdict(optimizer)
    for group, index, p in verdict.moved_freely:
        # torch steps on the gradient, also if the weight was frozen after the backward pass
        if (p.requires_grad or p.grad is not None) and manifold_of(p) is not None:
            raise _off_manifold(optimizer, group, index, p)
    for group, p, known in verdict.replaced:
        if known.strands(optimizer):
            raise _stranded(optimizer, group, p, known)
    if verdict.entries and optimizer not in _warned and (advice := _advice(optimizer, verdict)):
        _warned.add(optimizer)
        warnings.warn(advice, UserWarning, stacklevel=4)


def _after_step(optimizer: Optimizer, args: object, kwargs: object) -> None:
    if not torch.compiler.is_compiling():
        counter.steps += 1
        _count(optimizer)
    elif any(entry.counts_steps for entry in _entries()):
        _count_uncompiled(optimizer)


def _count(optimizer: Optimizer) -> None:
    due = [(p, entry) for _, p, entry in _verdict(optimizer).held() if entry.counts_steps and p.grad is not None]
    outer = outer_steps() if due else []
    for p, entry in due:
        if not any(
            _holds(each, {id(p)}) for each in outer
        ):  # a wrapper may still write to the parameter, and counts it
            entry.after_step()


_count_uncompiled = uncompiled(_count)


def _advice(optimizer: Optimizer, verdict: _Verdict) -> str:
    name = type(optimizer).__name__
    remembers = any(kind.__name__ in _REMEMBER_COORDINATES for kind in type(optimizer).__mro__)
    for index, _, entry in verdict.held():
        if optimizer.param_groups[index].get("weight_decay"):
            return (
                f"{name} applies weight decay to coordinates in parameter group {index}, which pulls the constrained "
                f"weight towards its base. Split group {index}: put the coordinates into one with weight_decay=0."
            )
        if entry.rebase_every and _is_averaged(entry):
            return _NO_AVERAGE
        if remembers and entry.rebase_every:
            return (
                f"{name} stores past coordinates of parameter group {index}, whose meaning changes at a rebase. "
                "Use rebase_every=None, or an optimizer such as Adam or SGD."
            )
    return ""


def _off_manifold(optimizer: Optimizer, group: int, index: int, p: Tensor) -> OptimizerError:
    own = type(optimizer).__name__
    wrapped = [each for each in vars(optimizer).values() if isinstance(each, Optimizer)]
    got, way = "a plain one", ""
    if any(_moves_on_manifolds(type(each)) for each in wrapped):
        got = "a wrapper of one, which may write to weights itself"
        way = f"If {own} does not, declare moves_on_manifolds = True in a subclass of it. Otherwise use"
    return OptimizerError(
        f"{own} would move the weight {_name(optimizer, group, index, p)} off its manifold "
        f"(parameter {index} of group {group}, shape {tuple(p.shape)}).\n"
        f"Expected a Riemannian optimizer, got {got}. Nothing was changed.\n"
        f'{way or "Use"} manifold_rnn.optim or geoopt.optim, or constrain with view="trivialized".'
    )


def _stranded(optimizer: Optimizer, group: int, p: Tensor, known: _Replaced) -> OptimizerError:
    return OptimizerError(
        f"{type(optimizer).__name__} has a parameter that {known.by}() replaced, and no optimizer has the new one: the "
        f"weight {known.name!r} would never be trained.\n"
        f"Expected the new parameters, got the old one, of shape {tuple(p.shape)}, in group {group}. "
        "Nothing was changed.\n"
        f"Create the optimizer after {known.by}()."
    )


def _name(optimizer: Optimizer, group: int, index: int, p: Tensor) -> str:
    if names := optimizer.param_groups[group].get("param_names"):
        return repr(names[index])
    own = {repr(entry.name) for entry in _entries() if entry.is_stored_by_module and entry.watched is p}
    return " or ".join(sorted(own)[:3])


def _parameters(optimizer: Optimizer) -> Iterator[tuple[int, int, Tensor]]:
    for group, options in enumerate(optimizer.param_groups):
        for index, p in enumerate(options["params"]):
            yield group, index, p


def _entries() -> list[Watched]:
    with _lock:
        return list(_tracked)


def _moves_on_manifolds(kind: type[Optimizer]) -> bool:
    """Return whether the optimizer class declares it, or belongs to geoopt."""
    return _is_geoopts(kind) or any(vars(k).get("moves_on_manifolds", False) for k in kind.__mro__)


def _is_geoopts(kind: type[Optimizer]) -> bool:
    return any(k.__module__.startswith("geoopt.") for k in kind.__mro__)
