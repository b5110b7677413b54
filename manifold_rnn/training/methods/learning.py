"""The section ``learning``: the rule that computes the gradients of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ...nn.cells import Cell
from ...online import RFLO
from ...tasks.memory import require_memory
from ...zoo import Network
from ..choices import cells, require
from ..fields import check_fields
from ..values import Value
from .base import Method


@dataclass(frozen=True)
class LearningSettings(Method):
    """Settings of the rule that computes the gradients of a run.

    Parameters
    ----------
    rule : str
        backpropagation, or rflo for random feedback local online learning. rflo needs a network of one level whose cell
        is LeakyElman or Elman.
    feedback : str
        For rflo, the matrix that propagates errors to the units. random is a fixed matrix, transpose the transposed
        readout.
    influence : str
        For rflo, the approximation of the influence of weights on states. The default, local, is the published trace.
        The value diagonal also uses the weight of each unit to itself. The value full is exact and expensive.
    seed : int
        Random seed of the feedback matrix, for rflo.

    Raises
    ------
    OptionError
        If a value is unknown or out of range, or an option of rflo is set for another rule.

    Examples
    --------
    >>> settings = mr.training.LearningSettings("rflo", influence="diagonal")
    >>> assert settings.active and not mr.training.LearningSettings().active
    """

    rule: Literal["backpropagation", "rflo"] = "backpropagation"
    feedback: Literal["random", "transpose"] = "random"
    influence: Literal["local", "diagonal", "full"] = "local"
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, "learning.")
        require(0 <= self.seed < 2**32, "learning.seed", "an integer from 0 to 2^32 - 1", self.seed)
        for key in () if self.active else ("feedback", "influence", "seed"):
            value = getattr(self, key)
            is_default = value == getattr(LearningSettings, key)
            require(is_default, f"learning.{key}", "`learning.rule=rflo`, because only this rule has the option", value)

    @property
    def active(self) -> bool:
        """Whether the rule differs from backpropagation."""
        return self.rule != "backpropagation"

    def require(self, settings: Value) -> None:
        """Raise `OptionError` unless the other sections fit the rule and the influence fits into memory."""
        network = settings.network
        for key in ("pruning", "search"):
            expected = f"backpropagation together with the section `{key}`, which changes the layer"
            require(not getattr(settings, key).active, "learning.rule", expected, self.rule)
        if network.cell is not None:
            leaky = sorted(name for name, kind in cells().items() if kind.leaky_form is not Cell.leaky_form)
            expected = f"{' or '.join(leaky)} for `learning.rule=rflo`"
            require(network.cell in leaky, "network.cell", expected, network.cell)
        one = "1 level for `learning.rule=rflo`"
        require(network.num_layers == 1, "network.num_layers", one, network.num_layers)
        if network.budget is None:  # before the network is built; with a budget, after it
            self._require_memory(settings, network.hidden_size)

    def require_network(self, settings: Value, network: Network) -> None:
        """Raise `OptionError` unless the influence fits into memory, for the units that result from a budget."""
        self._require_memory(settings, network.layer.hidden_size)

    def _require_memory(self, settings: Value, n: int) -> None:
        if self.influence == "full":
            size = 8 if settings.precision == "float64" else 4
            entries = settings.batch_size * n * n * (n + settings.task.input_size + 1)
            needed = 2 * size * entries  # a step computes the next influence while the last one exists
            require_memory("learning.influence", needed, "an influence", f"full with {n:,} units")

    def build(self, network: Network) -> Network:
        """Return a network with the same layer and readout, which learns by this rule in training."""
        generator = torch.Generator().manual_seed(self.seed)
        options: Value = {"feedback": self.feedback, "influence": self.influence, "generator": generator}
        rule = RFLO(network.layer, network.readout, **options)
        rule.rates = network.rates
        return rule
