"""Builds optimizers and schedules from settings: Riemannian for weights on a manifold, torch's for others."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ..diagnostics import constrained_parameters
from ..errors import OptionError
from ..manifolds import manifold_of
from ..nn import UnitGates
from .choices import Builder, optimizers, option_names, takes
from .settings import OptimizerSettings, ScheduleSettings
from .values import Value, Values


def build_optimizer(network: nn.Module, settings: OptimizerSettings) -> Optimizer:
    """Build the optimizer of a network. It is Riemannian if a parameter is a point on a manifold, else torch's.

    In the trivialized view every parameter is unconstrained, and any torch optimizer can train it. In the update view
    the optimizer must move the weight along its manifold.

    Parameters
    ----------
    network : nn.Module
        Network to train. Its ``parameter_groups(lr)`` are used if it has them, else all its parameters with one
        learning rate. Groups with another rate than ``lr`` count as constrained, except those of
        `manifold_rnn.nn.UnitGates`. If there are none, all groups but the last that contain a constrained weight count
        as constrained.
    settings : OptimizerSettings
        Settings of the optimizer.

    Returns
    -------
    torch.optim.Optimizer

    Raises
    ------
    OptionError
        If a group of the settings matches no weight, or an option is out of range.

    Examples
    --------
    >>> network = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Orthogonal())
    >>> optimizer = mr.training.build_optimizer(network, mr.training.OptimizerSettings("Adam", lr=0.01))
    >>> assert isinstance(optimizer, mr.optim.RiemannianAdam)
    """
    require_groups(network, settings)
    split = getattr(network, "parameter_groups", None)
    groups: list[Values] = [{"params": list(network.parameters())}] if split is None else split(settings.lr)
    groups = [group for group in groups if group["params"]]
    constrained = _constrained_groups(network, groups, settings.lr)
    by_name: dict[str, list[Values]] = {}
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


def _constrained_groups(network: nn.Module, groups: list[Values], lr: float) -> list[Values]:
    gates = {id(part.log_alpha) for part in network.modules() if isinstance(part, UnitGates)}
    set_apart = [group for group in groups if group.get("lr", lr) != lr]
    set_apart = [group for group in set_apart if not all(id(p) in gates for p in group["params"])]
    if set_apart:
        return set_apart
    ids = {id(p) for p in constrained_parameters(network)}
    return [group for group in groups[:-1] if any(id(p) in ids for p in group["params"])]


def _split_by_name(network: nn.Module, group: Values, keys: Iterable[str]) -> list[tuple[str, Values]]:
    """A group, split by the first key that is part of the parameter's name."""
    split: dict[str, list[nn.Parameter]] = {}
    names = {id(p): name for name, p in network.named_parameters()}
    for p in group["params"]:
        split.setdefault(next((key for key in keys if key in names[id(p)]), ""), []).append(p)
    return [(key, {**group, "params": params}) for key, params in split.items()]


def _build(name: str, groups: list[Values], settings: OptimizerSettings) -> Optimizer:
    riemannian, on_manifold = optimizers()[name], any(manifold_of(p) for g in groups for p in g["params"])
    known, plain = option_names(riemannian), riemannian.plain
    options = {key: value for key, value in settings.options.items() if key in known}
    use_plain = plain is not None and not on_manifold and all(takes(plain, option) for option in options)
    if options.get("capturable") and any(p.device.type == "cpu" for g in groups for p in g["params"]):
        use_plain = False  # torch's own optimizers refuse it on a CPU
    kind: Builder = plain if plain is not None and use_plain else riemannian
    try:
        return kind(groups, lr=settings.lr, weight_decay=settings.weight_decay, **options)
    except (TypeError, ValueError) as error:
        reason = str(error).rstrip(".")
        raise OptionError(f"`optimizer.options` of {name} cannot be {options}: {reason}."[:400]) from error


class CombinedOptimizer(Optimizer):
    """Several optimizers with separate parameters, combined for a trainer or schedule that takes only one."""

    moves_on_manifolds = True

    def __init__(self, *parts: Optimizer) -> None:
        self.parts = parts
        super().__init__([p for part in parts for group in part.param_groups for p in group["params"]], {})

    @property  # looked up each time, because a part replaces its groups when it loads a state
    def param_groups(self) -> list[Values]:
        """The groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    @param_groups.setter
    def param_groups(self, groups: list[Values]) -> None:
        pass

    def add_param_group(self, param_group: Values) -> None:
        """Do nothing: groups belong to the parts."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients of all parts."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Value] | None = None) -> Value:
        """Take a step with each part. A closure is evaluated once, before the first part."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    step.hooked = True  # type: ignore[attr-defined]  # or hooks on all optimizers would run twice for each step

    def state_dict(self) -> Values:
        """Return the states of the parts, in a list under "parts"."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: Values) -> None:
        """Load the state of each part."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)


def build_schedule(optimizer: Optimizer, settings: ScheduleSettings, steps: int, steps_per_epoch: int) -> LambdaLR:
    r"""Return a schedule that multiplies every learning rate by the same factor. Step it once per batch.

    There are :math:`S` steps, counted from 0, of which the first :math:`w` are the warm-up. In the warm-up the factor
    is :math:`(s + 1) / w` at step :math:`s`. After it, the factor depends on the schedule. For "constant" it is 1. For
    "cosine" it is :math:`\tfrac12 (1 + \cos(\pi (s - w) / (S - w)))`. For "step" it is multiplied by ``factor`` every
    ``every`` epochs.
    """
    warm = math.ceil(settings.warmup * steps)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        if settings.name == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
        if settings.name == "step":
            return settings.factor ** (step // (settings.every * steps_per_epoch))
        return 1.0

    return LambdaLR(optimizer, factor)
