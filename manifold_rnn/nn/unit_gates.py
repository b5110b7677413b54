"""Hard-concrete gates of the units of a layer. They scale the columns of every weight that reads the units."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor, nn

from .._options import is_integer
from .._torch import is_transformed
from ..errors import DtypeError, NonFiniteError, OptionError
from .kinds import KeepsReal


class UnitGates(KeepsReal):
    r"""One hard-concrete gate for each of n units. In training it is random in [0, 1], often exactly 0 or 1.

    Each unit has a parameter :math:`\log\alpha` and a uniform random number :math:`u`:

    .. math::
        s = \operatorname{clip}(1.2\, \sigma(z) - 0.1,\; 0,\; 1), \qquad
        z = \tfrac32 (\log u - \log(1 - u) + \log\alpha).

    In evaluation a gate is :math:`\operatorname{clip}(1.2\, \sigma(\log\alpha) - 0.1, 0, 1)`. It is exactly 0 for
    :math:`\log\alpha` below :math:`-\log 11 \approx -2.4`, and then the unit is closed. It is exactly 1 above 2.4.

    Parameters
    ----------
    size : int
        Number of units n.
    minimum : int
        Number of units that stay open. The ``minimum`` largest :math:`\log\alpha` count as at least 0.
    start : float
        Mean of the initial :math:`\log\alpha`. The standard deviation is 0.1. At 1, a gate is 0.78 in evaluation, and
        open in training with probability 0.93. Use 3 for a trained network, because gates are then 1 in evaluation.
    device : torch.device, optional
        Device of the gates. Default: torch's default device.
    dtype : torch.dtype, optional
        Real.

    Attributes
    ----------
    log_alpha : Parameter, shape (n,)
        The parameter. It is clamped to [log 0.01, log 100] when a sample is drawn while gradients are recorded. Do not
        use weight decay for it, because it would open or close gates.
    noise : Tensor, shape (n,)
        Logistic noise of the last sample, a buffer that is not part of the state dict.
    rate : float
        Learning rate in `manifold_rnn.zoo.Network.parameter_groups`, as a multiple of that of the weights.

    Raises
    ------
    OptionError
        If ``size`` or ``minimum`` is not an integer or out of range. If ``start`` is not a number from log 0.01 to log
        100.
    DtypeError
        If ``dtype`` is not real.

    Notes
    -----
    `sample` draws the gates. A call returns the gates of the last sample, so all readers of the units use the same
    gates. Sources: Louizos, Welling and Kingma (2018) for the distribution, and Wen et al. (2020) for gates that are
    shared by the weights of a recurrent layer.

    Examples
    --------
    >>> gates = mr.nn.UnitGates(3, start=3.0)
    >>> assert torch.equal(gates.eval()(), torch.ones(3)) and len(gates.open()) == 3
    """

    rate: ClassVar[float] = 10.0
    temperature: ClassVar[float] = 2 / 3
    low: ClassVar[float] = -0.1
    high: ClassVar[float] = 1.1
    least: ClassVar[float] = math.log(0.01)
    most: ClassVar[float] = math.log(100)
    log_alpha: nn.Parameter
    noise: Tensor

    def __init__(
        self,
        size: int,
        *,
        minimum: int = 1,
        start: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        require_gate_options(size, minimum, start, dtype)
        super().__init__()
        self.minimum = minimum
        self.log_alpha = nn.Parameter(torch.empty(size, device=device, dtype=dtype).normal_(start, 0.1))
        self.register_buffer("noise", torch.zeros_like(self.log_alpha, requires_grad=False), persistent=False)

    def forward(self) -> Tensor:
        """Return the gates of the last sample in training, or those of evaluation, shape (n,)."""
        logits = self.bounded()
        if self.training:
            logits = (logits + self.noise) / self.temperature
        return (logits.sigmoid() * (self.high - self.low) + self.low).clamp(0, 1)

    def sample(self) -> None:
        """Draw one new gate for each unit. If ``log_alpha`` is trained, it is clamped to its range first."""
        if self.log_alpha.requires_grad and torch.is_grad_enabled() and not is_transformed():
            with torch.no_grad():
                self.log_alpha.copy_(self.bounded())
        u = torch.rand_like(self.log_alpha).clamp(1e-6, 1 - 1e-6)
        self.noise = u.logit()

    def bounded(self) -> Tensor:
        """Return ``log_alpha`` clamped to its range, and the largest ``minimum`` to at least 0, with gradient 1."""
        value = self.log_alpha.detach().clamp(self.least, self.most)
        largest = self.largest(self.minimum)
        value = value.index_put((largest,), value[largest].clamp(min=0))
        return value + (self.log_alpha - self.log_alpha.detach()).nan_to_num()  # zeros with a gradient, also at inf

    def largest(self, count: int) -> Tensor:
        """Return the indices of the units with the largest gates, in descending order. Of equal gates, the first."""
        return self.log_alpha.detach().argsort(descending=True, stable=True)[:count]

    def require_numbers(self, name: str = "the gates") -> None:
        """Raise `NonFiniteError` if a gate is NaN."""
        if bad := int(self.log_alpha.isnan().sum()):
            raise NonFiniteError(
                f"Pruning needs gates that are numbers.\nGot {bad} of {len(self.log_alpha)} in {name} that are NaN.\n"
                "Train again with a lower learning rate."
            )

    def open_probability(self) -> Tensor:
        r"""Return the probability that a sampled gate is not 0, :math:`\sigma(\log\alpha + \tfrac23 \log 11)`."""
        return (self.bounded() - self.temperature * math.log(-self.low / self.high)).sigmoid()

    @torch.no_grad()
    def open(self) -> Tensor:
        """Return the indices of the units whose gate is not 0 in evaluation. Raises `NonFiniteError` for NaN."""
        self.require_numbers()
        return (self.bounded().sigmoid() * (self.high - self.low) + self.low > 0).nonzero().squeeze(-1)

    def extra_repr(self) -> str:
        """Show the number of units and the minimum."""
        return f"{len(self.log_alpha)}, minimum={self.minimum}"


def require_gate_options(size: object, minimum: object, start: object, dtype: object = None) -> None:
    """Raise unless the options of `UnitGates` are in range."""
    if not is_integer(size, 1):
        raise OptionError(
            f"The size of UnitGates is out of range.\nExpected an integer of at least 1, got {size!r:.80}.\n"
            "Pass the hidden size of the layer."
        )
    if not is_integer(minimum, 1) or minimum > size:  # type: ignore[operator]
        raise OptionError(
            f"The minimum needs to be a number of units that stay open.\n"
            f"Expected an integer from 1 to {size}, got {minimum!r:.80}.\nChoose a number in this range."
        )
    is_number = isinstance(start, Real) and not isinstance(start, bool)
    if not (is_number and UnitGates.least <= start <= UnitGates.most):  # type: ignore[operator]
        raise OptionError(
            f"The start, the mean of the initial log alpha, is out of range.\n"
            f"Expected a number from {UnitGates.least:.3g} to {UnitGates.most:.3g}, got {start!r:.80}.\n"
            "Use 1, or 3 for a trained network."
        )
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise DtypeError(
            f"Gates need a real dtype.\nExpected a dtype such as torch.float32, got {dtype!r:.80}.\n"
            "Use dtype.to_real() for complex weights."
        )


class LayerGates(nn.ModuleDict):
    """The gates of a layer: `UnitGates` for each level and direction by suffix, and optionally for its inputs.

    Parameters
    ----------
    gates : mapping from str to UnitGates
        Gates by the suffixes of the layer in order, and "inputs" if input features have gates.
    """

    def __init__(self, gates: Mapping[str, UnitGates]) -> None:
        super().__init__({key.removeprefix("_"): value for key, value in gates.items()})

    def units(self, suffix: str) -> UnitGates:
        """Return the gates of one level and direction."""
        gates = self[suffix.removeprefix("_")]
        assert isinstance(gates, UnitGates)
        return gates

    def below(self, suffix: str) -> list[UnitGates]:
        """Return the gates of the inputs of a level: those of the level below in each direction, or of the features."""
        level = int(suffix.split("_")[1][1:])
        prefix = f"l{level - 1}"
        keys = [key for key in self if key in (prefix, f"{prefix}_reverse")] if level else ["inputs"]
        return [self.units(key) for key in keys if key in self]

    def require_numbers(self) -> None:
        """Raise `NonFiniteError` if a gate is NaN."""
        for key in self:
            self.units(key).require_numbers(key)

    def sample(self) -> None:
        """Draw every gate."""
        for key in self:
            self.units(key).sample()

    def scaled(self, suffix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of one level and direction, with their columns multiplied by the gates."""
        scaled, below = dict(weights), self.below(suffix)
        scaled["weight_hh"] = weights["weight_hh"] * self.units(suffix)()
        if below:
            V = weights["weight_ih"]
            scaled["weight_ih"] = V * features([gates() for gates in below], V.shape[-1])
        return scaled

    def last_level(self) -> list[UnitGates]:
        """Return the gates of the layer's outputs, in each direction."""
        level = max(int(key.split("_")[0][1:]) for key in self if key != "inputs")
        return [self.units(key) for key in self if key in (f"l{level}", f"l{level}_reverse")]


def features(parts: list[Tensor], width: int) -> Tensor:
    """Concatenate the parts of each direction, twice if a reader has real and imaginary columns."""
    joined = torch.cat(parts)
    return joined if len(joined) == width else torch.cat([joined, joined])
