"""The copying problem: remember ten symbols over a long time."""

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
    r"""Read ten symbols, wait, and write them down again after a marker.

    The symbols are drawn uniformly from eight kinds. With ``delay`` T and 0 for a blank, the inputs are, as one-hot
    vectors of ten,

    =============  ========================================================
    ``"marker"``   10 symbols, T - 1 blanks, the marker 9, 10 blanks
    ``"early"``    10 symbols, T blanks, the marker 9, 9 blanks
    =============  ========================================================

    and the targets T + 10 blanks and the 10 symbols: with the second layout the first is due at the marker itself.

    **Loss**: mean cross-entropy of the nine logits over all T + 20 steps, natural logarithm.
    **Metric**: accuracy on the last ten steps; on all steps blanks alone would have (T + 10) / (T + 20).
    **Baseline**: blanks, then a uniform guess, has the loss :math:`10 \log 8 / (T + 20)` and accuracy 1/8.

    Parameters
    ----------
    delay : int
        T.
    layout : "marker" or "early"
        See above: that of uRNN, scoRNN, scuRNN and ENRNN, or that of expRNN and dtriv.
    sizes : tuple of int
        Sequences for training, validation and test.
    seed : int
        Of all of them, from 0 to :math:`2^{32} - 1`.
    fresh : bool
        Whether to draw another training set for every epoch.

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
        """Steps of a sequence, T + 20."""
        return self.delay + 2 * _SYMBOLS

    @property
    def sequence_bytes(self) -> int:
        return 2 * self.length + 8 * _SYMBOLS  # both in bytes, and the symbols as they are drawn

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
        r"""Return :math:`10 \log 8 / (T + 20)` and 1/8.

        Examples
        --------
        >>> assert round(mr.tasks.Copying(delay=1000).baseline().loss, 5) == 0.02039
        """
        return Score(loss=_SYMBOLS * math.log(_KINDS) / self.length, metric=1 / _KINDS)

    def plot(self, axes: "matplotlib.axes.Axes") -> None:
        """Draw what is read and what is due, a colour for each symbol; blanks are white."""
        read, due = self.draw(1, torch.Generator().manual_seed(self.seed)).tensors
        both = torch.cat([read, due]).to(torch.float32)
        shown = both.masked_fill(both == _BLANK, torch.nan).numpy()
        axes.imshow(shown, aspect="auto", interpolation="none", cmap="tab10", vmin=0, vmax=_MARKER)
        axes.set(title=f"{self.name}: blanks are white", xlabel="step")
        axes.set_yticks([0, 1], ["read", "due"])
