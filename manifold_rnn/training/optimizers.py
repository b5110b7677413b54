"""Optimizers from settings: Riemannian where a weight lies on a manifold, torch's elsewhere, and several as one."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..diagnostics import constrained_parameters
from ..errors import OptionError
from .choices import optimizers
from .settings import OptimizerSettings

Group = dict[str, Any]


def build_optimizer(network: nn.Module, settings: OptimizerSettings) -> Optimizer:
    """Build the optimizer of a network: Riemannian if a weight is itself a point on a manifold, else torch's.

    In the trivialized view every trained tensor is free, and any torch optimizer trains it. In the update view the
    optimizer has to move the weight along its manifold.

    Parameters
    ----------
    network : nn.Module
        Its ``parameter_groups(lr)`` are used if it has them, else all its parameters at one learning rate. The groups
        to which it gives another rate count as constrained; if there is none, all but the last that hold a constrained
        weight.
    settings : OptimizerSettings

    Returns
    -------
    torch.optim.Optimizer

    Raises
    ------
    OptionError
        If no weight has the name of one of the settings' groups, or an option is out of range.

    Examples
    --------
    >>> network = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Orthogonal())
    >>> optimizer = mr.training.build_optimizer(network, mr.training.OptimizerSettings("Adam", lr=0.01))
    >>> assert isinstance(optimizer, mr.optim.RiemannianAdam)
    """
    require_groups(network, settings)
    split = getattr(network, "parameter_groups", None)
    groups: list[Group] = [{"params": list(network.parameters())}] if split is None else split(settings.lr)
    groups = [group for group in groups if group["params"]]
    constrained = _constrained_groups(network, groups, settings.lr)
    by_name: dict[str, list[Group]] = {}
    for group in groups:
        name: str = settings.name
        lr: float | None = None
        if any(group is other for other in constrained):
            name, lr = settings.constrained or name, settings.constrained_lr
        for key, part in _split_by_name(network, group, settings.groups):
            own = settings.groups.get(key, {})
            if (rate := own.get("lr", lr)) is not None:
                part["lr"] = rate
            by_name.setdefault(own.get("name", name), []).append(part)
    built = [_build(name, parts, settings) for name, parts in by_name.items()]
    return built[0] if len(built) == 1 else CombinedOptimizer(*built)


def require_groups(network: nn.Module, settings: OptimizerSettings) -> None:
    """Raise `OptionError` if a group of the settings has no weight in this network."""
    names = [name for name, _ in network.named_parameters()]
    for key in settings.groups:
        if not any(key in name for name in names):
            raise OptionError(f"`optimizer.groups.{key}` matches no weight. Weights: {', '.join(names)}."[:400])


def _constrained_groups(network: nn.Module, groups: list[Group], lr: float) -> list[Group]:
    set_apart = [group for group in groups if group.get("lr", lr) != lr]
    if set_apart:
        return set_apart
    ids = {id(p) for p in constrained_parameters(network)}
    return [group for group in groups[:-1] if any(id(p) in ids for p in group["params"])]


def _split_by_name(network: nn.Module, group: Group, keys: Iterable[str]) -> list[tuple[str, Group]]:
    """A group, split by the first of the keys that is in a parameter's name."""
    split: dict[str, list[nn.Parameter]] = {}
    names = {id(p): name for name, p in network.named_parameters()}
    for p in group["params"]:
        split.setdefault(next((key for key in keys if key in names[id(p)]), ""), []).append(p)
    return [(key, {**group, "params": params}) for key, params in split.items()]


def _build(name: str, groups: list[Group], settings: OptimizerSettings) -> Optimizer:
    choice = optimizers()[name]
    options = {key: value for key, value in settings.options.items() if key in choice.options()}
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    kind: Callable[..., Optimizer] = choice.riemannian
    on_manifold = any(hasattr(p, "manifold") for group in groups for p in group["params"])
    if (
        choice.plain is not None
        and not on_manifold
        and options.keys() <= inspect.signature(choice.plain).parameters.keys()
    ):
        kind = choice.plain
    try:
        return kind(groups, lr=settings.lr, weight_decay=settings.weight_decay, **options)
    except (TypeError, ValueError) as error:
        raise OptionError(f"`optimizer.options` of {name} cannot be {options}: {error}."[:400]) from error


class CombinedOptimizer(Optimizer):
    """Several optimizers as one, for a trainer and a schedule that take one.

    Parameters
    ----------
    *parts : torch.optim.Optimizer
        Each with parameters of its own.

    Examples
    --------
    >>> a, b = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    >>> both = mr.training.CombinedOptimizer(torch.optim.SGD([a], lr=0.5), torch.optim.Adam([b], lr=0.1))
    >>> (a + b).sum().backward(); both.step()
    >>> assert a == 0.5 and abs(b - 0.9) < 1e-6 and len(both.param_groups) == 2
    """

    moves_on_manifolds = True

    def __init__(self, *parts: Optimizer) -> None:
        self.parts = parts
        super().__init__([p for part in parts for group in part.param_groups for p in group["params"]], {})

    @property  # a part replaces its groups when it loads a state, so they are looked up each time
    def param_groups(self) -> list[Group]:
        """The groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    @param_groups.setter
    def param_groups(self, groups: list[Group]) -> None:
        pass

    def add_param_group(self, param_group: Group) -> None:
        """Do nothing: groups belong to the parts."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients of all parts."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Let each part take a step; a closure is evaluated once, before all of them."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    step.hooked = True  # type: ignore[attr-defined]  # else hooks on all optimizers would see each step twice

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the parts, in a list under "parts"."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of each part."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
