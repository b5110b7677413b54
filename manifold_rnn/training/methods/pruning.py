"""The section ``pruning``: gates over the units of a network, with a penalty that closes them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from torch import Tensor, nn

from ...nn import gate_units, l0_penalty
from ...tasks import Task
from ...zoo import Network
from ..choices import require
from ..fields import check_fields
from .base import Method

_GATES = "log_alpha"  # in the names of their parameters


@dataclass(frozen=True)
class PruningSettings(Method):
    r"""Gates over the units of the layer, and a penalty for each weight that pruning would keep.

    Training minimizes the mean loss of a batch plus :math:`\lambda\, E`, where E is `manifold_rnn.nn.l0_penalty`, the
    expected number of weights of the layer that pruning keeps. ``manifold-rnn prune`` then removes the closed units.

    Parameters
    ----------
    penalty : float
        :math:`\lambda` after the warm-up, in units of the loss for each weight; 0 for no gates. Where a source divides
        its :math:`\lambda` by the number of training examples, this is the quotient.
    warmup : float
        Fraction of all steps in which :math:`\lambda` first rises linearly from 0.
    minimum : int
        Units of each level and direction that always stay open.
    lr : float, optional
        Learning rate of the gates, which are never decayed. Default: ten times ``optimizer.lr``.
    inputs : bool
        Whether features of the input have gates too.

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

    def __post_init__(self) -> None:
        check_fields(self, "pruning.")
        require(0 <= self.penalty < math.inf, "pruning.penalty", "a number of at least 0", self.penalty)
        require(0 <= self.warmup <= 1, "pruning.warmup", "a fraction from 0 to 1", self.warmup)
        require(self.minimum >= 1, "pruning.minimum", "an integer of at least 1", self.minimum)
        require(self.lr is None or 0 < self.lr < math.inf, "pruning.lr", "a positive number", self.lr)
        if not self.active:
            for f in dataclasses.fields(self):
                value = getattr(self, f.name)
                require(value == f.default, f"pruning.{f.name}", "a `pruning.penalty` above 0", value)

    @property
    def active(self) -> bool:
        """Whether there is a penalty."""
        return self.penalty > 0

    def build(self, network: Network) -> Network:
        """Return the network with gates over its units, which the readout shares."""
        gate_units(network.layer, network.readout, minimum=self.minimum, inputs=self.inputs)
        return network

    def rates(self) -> dict[str, float]:
        """Return the learning rate of the gates, if it is set."""
        return {} if self.lr is None else {_GATES: self.lr}

    def added_loss(self, network: nn.Module, task: Task, progress: float) -> Tensor | None:
        """Return the penalty, which rises during the warm-up."""
        strength = min(1.0, progress / self.warmup) if self.warmup else 1.0
        return self.penalty * strength * l0_penalty(network)

    def added_validation_loss(self, network: nn.Module, task: Task) -> Tensor | None:
        """Return the full penalty, so that a smaller network may be the best one."""
        return self.penalty * l0_penalty(network)
