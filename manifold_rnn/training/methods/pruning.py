"""The section ``pruning``: gates of the units of a network, with a penalty that closes them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from ...errors import NonFiniteError
from ...nn import UnitGates, gate_units, l0_penalty
from ...nn.gating import gated_layers
from ...tasks import Task
from ...zoo import Network
from ..choices import require
from ..fields import check_fields
from ..values import Value
from .base import Method

_GATES = "log_alpha"  # part of the names of the gates' parameters


@dataclass(frozen=True)
class PruningSettings(Method):
    r"""Adds gates to the units of the layer, and a penalty for each weight that pruning would keep.

    Training minimizes the mean loss of a batch plus :math:`\lambda\, E`. E is `manifold_rnn.nn.l0_penalty`, the
    expected number of weights of the layer that pruning keeps. ``manifold-rnn prune`` then removes the closed units.

    Parameters
    ----------
    penalty : float
        :math:`\lambda` after the warm-up, in units of the loss for each weight. With 0 there are no gates, and the
        other values have no effect. If a paper divides its :math:`\lambda` by the number of training examples, pass the
        quotient.
    warmup : float
        Fraction of all steps over which :math:`\lambda` rises linearly from 0.
    minimum : int
        Number of units of each level and direction that always stay open.
    lr : float, optional
        Learning rate of the gates. They have no weight decay. Default: ten times ``optimizer.lr``.
    inputs : bool
        Whether input features have gates too.
    log_alpha : float
        Mean of the initial :math:`\log\alpha`, the ``start`` of `manifold_rnn.nn.UnitGates`. Use 3 for trained weights.

    Raises
    ------
    OptionError
        If a value is out of range.

    Examples
    --------
    >>> assert mr.training.PruningSettings(penalty=3e-5).active and not mr.training.PruningSettings().active
    """

    penalty: float = 0.0
    warmup: float = 0.33
    minimum: int = 1
    lr: float | None = None
    inputs: bool = False
    log_alpha: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, "pruning.")
        require(0 <= self.penalty < math.inf, "pruning.penalty", "a number of at least 0", self.penalty)
        require(0 <= self.warmup <= 1, "pruning.warmup", "a fraction from 0 to 1", self.warmup)
        require(self.minimum >= 1, "pruning.minimum", "an integer of at least 1", self.minimum)
        require(self.lr is None or 0 < self.lr < math.inf, "pruning.lr", "a positive number", self.lr)
        least, most = UnitGates.least, UnitGates.most
        between = f"a number from {least:.2g} to {most:.2g}"
        require(least <= self.log_alpha <= most, "pruning.log_alpha", between, self.log_alpha)

    @property
    def active(self) -> bool:
        """Whether there is a penalty."""
        return self.penalty > 0

    def require(self, settings: Value) -> None:
        """Raise `OptionError` if the rate of the gates is set twice."""
        twice = [part for part in settings.optimizer.groups if _GATES in part] if self.lr is not None else []
        alone = f"an optimizer without a group for the gates, such as `optimizer.groups.{_GATES}`"
        require(not twice, "pruning.lr", alone, f"{self.lr} and {twice}")

    def build(self, network: Network) -> Network:
        """Return the network with gates of its units, which also apply to the readout."""
        layer, weight, other = network.layer, network.readout.weight, "another network for `pruning.penalty`"
        n = layer.hidden_size
        require(self.minimum <= n, "pruning.minimum", f"at most the {n} units of the network", self.minimum)
        got = "one with a trained initial state, which the pruned network could not store"
        require(not layer.train_initial_state, "network.zoo", other, got)
        reads_real_part = layer.get_parameter("weight_ih_l0").is_complex() and weight.shape[1] == n
        got = "one whose readout reads only the real part of complex units"
        require(not reads_real_part, "network.zoo", other, got)
        gate_units(layer, network.readout, minimum=self.minimum, inputs=self.inputs, start=self.log_alpha)
        return network

    def rates(self) -> dict[str, float]:
        """Return the learning rate of the gates, if it is set."""
        return {} if self.lr is None else {_GATES: self.lr}

    def added_loss(self, network: nn.Module, task: Task, progress: float) -> Tensor | None:
        """Return the penalty, which rises during the warm-up."""
        strength = min(1.0, progress / self.warmup) if self.warmup else 1.0
        return self.penalty * strength * l0_penalty(network)

    def added_validation_loss(self, network: nn.Module, task: Task) -> Tensor | None:
        """Return the full penalty, so that the best checkpoint may be a smaller network."""
        return self.penalty * l0_penalty(network)

    def numbers(self, network: nn.Module) -> dict[str, float]:
        """Return the number of open units of all levels, or NaN if a gate is NaN."""
        units = [gates.units(suffix) for layer, gates in gated_layers(network) for suffix in layer.suffixes]
        try:
            return {"gates/open": float(sum(len(each.open()) for each in units))}
        except NonFiniteError:
            return {"gates/open": math.nan}
