"""The section ``start``: initial weights computed from the training set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ...errors import ManifoldError, UnsupportedError
from ...nn import cells, init
from ...zoo import Network
from ..choices import require
from ..fields import check_fields
from ..values import Value
from .base import Method

_KEYS = {  # replacements in the messages of a fit: its arguments, and the keys of a run
    "Pass the scores of their density, or pass strict=False": "Set `start.strict: false`",
    "strict=False": "`start.strict: false`",
    "use inputs='gaussian'": "set `start.inputs: gaussian`",
    "a smaller hidden": "a smaller `start.directions`",
    "another hidden": "another `start.directions`",
    "`directions`": "`start.directions`",
    "hidden=": "start.directions=",
}


@dataclass(frozen=True)
class StartSettings(Method):
    """Computes the initial weights of a run from its training set, before the first step.

    Parameters
    ----------
    name : str, optional
        moments computes the input weights with `manifold_rnn.nn.init.moments_`. For the cell Quadratic it also computes
        the recurrent weights, and with one layer the readout. null means the usual initialization.
    directions : int, optional
        Number of directions, at most the hidden size and the number of inputs. Default: all directions above the noise.
    inputs : str
        gaussian estimates the mean and the covariance of the inputs. standard assumes 0 and I.
    strict : bool
        Whether to raise for inputs that are not Gaussian or not independent in time, and for directions that are not
        unique.
    gain : float
        Factor that scales the directions.

    Raises
    ------
    OptionError
        If a value is out of range, or if a value is set without name.

    Examples
    --------
    >>> settings = mr.training.StartSettings("moments", directions=3)
    >>> assert settings.active and not mr.training.StartSettings().active
    """

    name: Literal["moments"] | None = None
    directions: int | None = None
    inputs: Literal["gaussian", "standard"] = "gaussian"
    strict: bool = True
    gain: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, "start.")
        if self.directions is not None:
            require(1 <= self.directions < 2**31, "start.directions", "an integer from 1 to 2^31 - 1", self.directions)
        require(0 < self.gain < math.inf, "start.gain", "a positive number", self.gain)
        for key in ("directions", "inputs", "strict", "gain"):
            value = getattr(self, key)
            require(self.active or value == getattr(StartSettings, key), f"start.{key}", "`start.name`", value)

    @property
    def active(self) -> bool:
        """Whether the weights are computed from the training set."""
        return self.name is not None

    def require(self, settings: Value) -> None:
        """Raise `OptionError` if there are more directions than inputs or units."""
        task, network = settings.task, settings.network
        if self.directions is not None:
            for what, most in (("task.input_size", task.input_size), ("network.hidden_size", network.hidden_size)):
                if what.startswith("task") or network.budget is None:
                    expected = f"an integer of at most `{what}`, which is {most}"
                    require(self.directions <= most, "start.directions", expected, self.directions)
        require(task.length >= 2, "start.name", "a task with sequences of at least 2 steps", task.length)

    def start(self, network: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        """Set the input weights. For the cell Quadratic, also set the recurrent weights and the readout.

        Raises
        ------
        ManifoldError
            If `manifold_rnn.nn.init.moments_` raises, or if the layer is bidirectional. The message names the keys of
            this section.
        """
        assert isinstance(network, Network)
        layer = network.layer
        if layer.bidirectional:
            raise UnsupportedError(
                "`start.name: moments` needs a layer in one direction.\nExpected bidirectional=False, got True.\n"
                "Use `nn.init.moments_` for the input weights of both directions."
            )
        options: Value = {"inputs": self.inputs, "strict": self.strict, "gain": self.gain}
        try:
            fit = init.moments_(layer, (inputs, targets), self.directions, **options)
        except ManifoldError as error:
            message = str(error)
            for name, key in _KEYS.items():
                message = message.replace(name, key)
            raise type(error)(message[:400]) from error
        if not isinstance(layer.cell, cells.Quadratic) or layer.num_layers > 1:
            return
        weight, bias = network.readout.weight, network.readout.bias
        if weight.shape != (fit.C.shape[1], layer.hidden_size):  # with complex states, for example
            return
        with torch.no_grad():
            weight.zero_()
            weight[:, : len(fit.C)] = (fit.C.mT / self.gain**2).to(weight)
            bias.copy_(fit.offset)
