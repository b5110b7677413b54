"""The copying problem: reproduce ten symbols after a long delay."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from .base import Score
from .one_hot import OneHot
from .synthetic import Synthetic, require_drawn, require_layout, require_length

if TYPE_CHECKING:
    import matplotlib.axes

_SYMBOLS, _BLANK, _MARKER, _KINDS = 10, 0, 9, 8


@dataclass(frozen=True)
class Copying(Synthetic):
    r"""Read ten symbols, and reproduce them after a delay and a marker.

    The symbols are drawn uniformly from eight kinds, and 0 is the blank. With ``delay`` T, the inputs are these
    sequences of one-hot vectors of size 10:

    =============  ========================================================
    ``"marker"``   10 symbols, T - 1 blanks, the marker 9, 10 blanks
    ``"early"``    10 symbols, T blanks, the marker 9, 9 blanks
    =============  ========================================================

    The targets are T + 10 blanks, followed by the 10 symbols. With the layout "early", the first symbol must be
    predicted at the marker itself.

    **Loss**: mean cross-entropy of the nine logits over all T + 20 steps, natural logarithm.
    **Metric**: accuracy on the last ten steps. On all steps, predicting only blanks would have the accuracy (T + 10) /
    (T + 20).
    **Baseline**: blanks, followed by a uniform prediction, have the loss :math:`10 \log 8 / (T + 20)` and the accuracy
    1/8.

    Parameters
    ----------
    delay : int
        Number T of time steps between symbols and answer.
    layout : "marker" or "early"
        Layout of the inputs, see above. uRNN, scoRNN, scuRNN and ENRNN use "marker"; expRNN and dtriv use "early".
    sizes : tuple of int
        Number of sequences for training, validation and test.
    seed : int
        Random seed of all sequences, from 0 to :math:`2^{32} - 1`.
    fresh : bool
        Whether to draw a new training set for every epoch.

    Raises
    ------
    OptionError
        If ``delay`` or a size is below 1, the seed out of range, or ``layout`` unknown.

    Notes
    -----
    Sources: Hochreiter and Schmidhuber (1997), in the form of Arjovsky, Shah and Bengio (2016).

    Examples
    --------
    >>> x, target = mr.tasks.Copying(delay=3).sample(1)
    >>> assert x.shape == (1, 23, 10) and torch.equal(x[0, :10].argmax(-1), target[0, 13:]) and x[0, 12, 9] == 1
    """

    delay: int = 100
    layout: Literal["marker", "early"] = "marker"
    sizes: tuple[int, int, int] = (20_000, 1_000, 1_000)
    seed: int = 0
    fresh: bool = False

    name: ClassVar[str] = "copying"
    problem: ClassVar[str] = "copying"
    metric_name: ClassVar[str] = "accuracy on the symbols"
    input_size: ClassVar[int] = _KINDS + 2
    output_size: ClassVar[int] = _KINDS + 1
    every_step: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_drawn(self)
        require_layout(self, self.layout, ("marker", "early"))
        require_length(self, "delay", self.delay, least=1)

    @property
    def length(self) -> int:
        """Number of time steps of a sequence, T + 20."""
        return self.delay + 2 * _SYMBOLS

    @property
    def sequence_bytes(self) -> int:
        return 2 * self.length + 8 * _SYMBOLS  # inputs and targets as bytes, and the drawn symbols

    def draw(self, count: int, generator: torch.Generator | None) -> OneHot:
        """Return sequences of symbols, and their targets of shape (count, T + 20)."""
        symbols = torch.randint(1, _KINDS + 1, (count, _SYMBOLS), generator=generator, device="cpu")
        read = torch.full((count, self.length), _BLANK, dtype=torch.uint8, device="cpu")
        targets = read.clone()
        read[:, :_SYMBOLS] = targets[:, -_SYMBOLS:] = symbols.to(torch.uint8)
        read[:, self.delay + _SYMBOLS - (1 if self.layout == "marker" else 0)] = _MARKER
        return OneHot(read, targets, self.input_size)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits (B, T + 20, 9) and symbols (B, T + 20)."""
        return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the accuracy on the last ten steps."""
        return (outputs[:, -_SYMBOLS:].argmax(-1) == targets[:, -_SYMBOLS:]).float().mean()

    def baseline(self) -> Score:
        r"""Return the loss :math:`10 \log 8 / (T + 20)` and the accuracy 1/8.

        Examples
        --------
        >>> assert round(mr.tasks.Copying(delay=1000).baseline().loss, 5) == 0.02039
        """
        return Score(loss=_SYMBOLS * math.log(_KINDS) / self.length, metric=1 / _KINDS)

    def plot(self, axes: "matplotlib.axes.Axes") -> None:
        """Draw the inputs and targets, with a colour for each symbol. Blanks are white."""
        read, due = self.draw(1, torch.Generator().manual_seed(self.seed)).tensors
        both = torch.cat([read, due]).to(torch.float32)
        shown = both.masked_fill(both == _BLANK, torch.nan).numpy()
        axes.imshow(shown, aspect="auto", interpolation="none", cmap="tab10", vmin=0, vmax=_MARKER)
        axes.set(title=f"{self.name}: blanks are white", xlabel="time step")
        axes.set_yticks([0, 1], ["read", "due"])
