"""By which rule the gradients of a run are computed."""

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
    """By which rule the gradients of a run are computed.

    Parameters
    ----------
    rule : str
        backpropagation, or rflo for random feedback local online learning, of a network of one level whose cell is
        LeakyElman or Elman.
    feedback : str
        Rule rflo: what carries errors back to the units. random is a fixed matrix, transpose the transposed readout.
    influence : str
        Rule rflo: what is kept of the influence of weights on states. local is the published trace, diagonal keeps each
        unit's weight to itself, full is exact and expensive.
    seed : int
        Rule rflo: seed of the random feedback.

    Raises
    ------
    OptionError
        If a value is unknown or out of range, or an option of rflo is set without it.

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
            require(is_default, f"learning.{key}", "`learning.rule=rflo`, which it is an option of", f"{value} alone")

    @property
    def active(self) -> bool:
        """Whether the rule is another than backpropagation."""
        return self.rule != "backpropagation"

    def require(self, settings: Value) -> None:
        """Raise `OptionError` unless the other sections fit the rule and the influence fits into memory."""
        network = settings.network
        for key in ("pruning", "search"):
            expected = f"backpropagation beside the section `{key}`, which changes how the layer runs"
            require(not getattr(settings, key).active, "learning.rule", expected, self.rule)
        if network.cell is not None:
            leaky = sorted(name for name, kind in cells().items() if kind.leaky_form is not Cell.leaky_form)
            expected = f"{' or '.join(leaky)} for `learning.rule=rflo`"
            require(network.cell in leaky, "network.cell", expected, network.cell)
        one = "1 level for `learning.rule=rflo`"
        require(network.num_layers == 1, "network.num_layers", one, network.num_layers)
        if network.budget is None:  # before a network is built
            self._require_memory(settings, network.hidden_size)

    def require_network(self, settings: Value, network: Network) -> None:
        """Raise `OptionError` unless the influence fits into memory, now that a budget has decided the units."""
        self._require_memory(settings, network.layer.hidden_size)

    def _require_memory(self, settings: Value, n: int) -> None:
        if self.influence == "full":
            size = 8 if settings.precision == "float64" else 4
            entries = settings.batch_size * n * n * (n + settings.task.input_size + 1)
            needed = 2 * size * entries  # a step makes the next influence beside the last
            require_memory("learning.influence", needed, "an influence", f"full with {n:,} units")

    def build(self, network: Network) -> Network:
        """Return the same layer and readout as a network that learns by the rule while it trains."""
        generator = torch.Generator().manual_seed(self.seed)
        options: Value = {"feedback": self.feedback, "influence": self.influence, "generator": generator}
        rule = RFLO(network.layer, network.readout, **options)
        rule.rates = network.rates
        return rule
