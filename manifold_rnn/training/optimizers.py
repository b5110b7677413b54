"""Optimizers from settings: Riemannian where a weight lies on a manifold, torch's elsewhere, and two as one."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from .. import optim
from ..constraints.registry import Registry
from ..errors import OptionError
from .run_parts import OptimizerSettings

_PLAIN: dict[str, Callable[..., Optimizer]] = {
    "adam": torch.optim.Adam,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
_RIEMANNIAN: dict[str, Callable[..., Optimizer]] = {
    "adam": optim.RiemannianAdam,
    "adagrad": optim.RiemannianAdagrad,
    "rmsprop": optim.RiemannianRMSprop,
    "sgd": optim.RiemannianSGD,
}
_SPELT = {"smoothing": "alpha", "initial_accumulator": "initial_accumulator_value"}


def build_optimizer(network: nn.Module, settings: OptimizerSettings) -> Optimizer:
    """Make the optimizer of a network: Riemannian if a weight is itself a point on a manifold, else torch's.

    In the trivialized view every trained tensor is free, and any torch optimizer will do; in the update view the
    optimizer has to move the weight along its manifold.

    Parameters
    ----------
    network : nn.Module
        Its ``parameter_groups(lr)`` are used if it has them, else all its parameters at one rate. Constrained are the
        groups to which it gives another rate; if there is none, all but the last that hold a constrained weight.
    settings : OptimizerSettings

    Returns
    -------
    torch.optim.Optimizer

    Raises
    ------
    OptionError
        If no weight has the name of one of the settings' groups.

    Examples
    --------
    >>> network = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Orthogonal())
    >>> optimizer = mr.training.build_optimizer(network, mr.training.OptimizerSettings("adam", lr=0.01))
    >>> assert isinstance(optimizer, mr.optim.RiemannianAdam)
    """
    require_groups(network, settings)
    split = getattr(network, "parameter_groups", None)
    groups: list[dict[str, Any]] = [{"params": list(network.parameters())}] if split is None else split(settings.lr)
    groups = [group for group in groups if group["params"]]
    constrained = [group for group in groups if group.get("lr", settings.lr) != settings.lr]
    if not constrained:
        held = _constrained(network)
        constrained = [group for group in groups[:-1] if any(id(p) in held for p in group["params"])]
    by_name: dict[str, list[dict[str, Any]]] = {}
    for group in groups:
        name: str = settings.name
        lr: float | None = None
        if any(group is other for other in constrained):
            name, lr = settings.constrained or name, settings.constrained_lr
        for key, part in _parts(network, group, settings.groups):
            own = settings.groups.get(key, {})
            if (rate := own.get("lr", lr)) is not None:
                part["lr"] = rate
            by_name.setdefault(own.get("name", name), []).append(part)
    optimizers = [_optimizer(name, held, settings) for name, held in by_name.items()]
    return optimizers[0] if len(optimizers) == 1 else Together(*optimizers)


def require_groups(network: nn.Module, settings: OptimizerSettings) -> None:
    """Raise `OptionError` if a group of the settings has no weight in this network."""
    names = [name for name, _ in network.named_parameters()]
    for key in settings.groups:
        if not any(key in name for name in names):
            raise OptionError(f"optimizer.groups.{key} is in no weight's name. Weights: {', '.join(names)}.")


def _constrained(network: nn.Module) -> set[int]:
    """The ids of all parameters that are on a manifold, or from which a constrained weight is computed."""
    trivialized = (p for module in network.modules() if isinstance(module, Registry) for p in module.parameters())
    return {id(p) for p in (*trivialized, *(p for p in network.parameters() if hasattr(p, "manifold")))}


def _parts(network: nn.Module, group: dict[str, Any], keys: Iterable[str]) -> list[tuple[str, dict[str, Any]]]:
    """A group, split by the first of the keys that is in a parameter's name."""
    held: dict[str, list[nn.Parameter]] = {}
    names = {id(p): name for name, p in network.named_parameters()}
    for p in group["params"]:
        held.setdefault(next((key for key in keys if key in names[id(p)]), ""), []).append(p)
    return [(key, {**group, "params": params}) for key, params in held.items()]


def _optimizer(name: str, groups: list[dict[str, Any]], settings: OptimizerSettings) -> Optimizer:
    options = {_SPELT.get(key, key): value for key, value in settings.options_of(name).items()}
    curved = any(hasattr(p, "manifold") for group in groups for p in group["params"])
    only_ours = name == "rmsprop" and "initial_accumulator_value" in options
    kinds = _RIEMANNIAN if curved or only_ours else _PLAIN
    return kinds[name](groups, lr=settings.lr, weight_decay=settings.weight_decay, **options)


class Together(Optimizer):
    """Several optimizers as one, for a trainer and a schedule that take one.

    Parameters
    ----------
    *parts : torch.optim.Optimizer
        Each with parameters of its own.

    Examples
    --------
    >>> a, b = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    >>> both = mr.training.Together(torch.optim.SGD([a], lr=0.5), torch.optim.Adam([b], lr=0.1))
    >>> (a + b).sum().backward(); both.step()
    >>> assert a == 0.5 and abs(b - 0.9) < 1e-6 and len(both.param_groups) == 2
    """

    moves_on_manifolds = True

    def __init__(self, *parts: Optimizer) -> None:
        self.parts = parts
        super().__init__([p for part in parts for group in part.param_groups for p in group["params"]], {})

    @property  # the groups that a part has now: it makes new ones when it loads a state
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        pass

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Do nothing: groups belong to the parts."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parts."""
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
        """Give each part its own state."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
