"""The adding problem: add two marked numbers in a long sequence."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import TensorDataset

from .base import Score
from .synthetic import Synthetic, require_drawn, require_layout, require_length

if TYPE_CHECKING:
    import matplotlib.axes

_NEAR = 0.04


@dataclass(frozen=True)
class Adding(Synthetic):
    r"""Add the two marked numbers of a sequence.

    Each time step has a number, uniform in [0, 1), and a mark. The mark is 1 at one step of each half and 0 elsewhere.

    **Loss**: mean squared error of the sum, which is predicted after the last step.
    **Metric**: the fraction of sums with an error below 0.04.
    **Baseline**: the prediction 1 has the variance of the sum as loss, :math:`2/12 \approx 0.167`. Its error is below
    0.04 with probability :math:`2 \cdot 0.04 - 0.04^2`.

    Parameters
    ----------
    steps : int
        Number T of time steps.
    layout : "half" or "early"
        Where the first half ends. "half" means before T/2, as for uRNN. "early" means before (T - 1)/2, as for scoRNN,
        scuRNN and ENRNN. Both are rounded down.
    sizes : tuple of int
        Number of sequences for training, validation and test.
    seed : int
        Random seed of all sequences, from 0 to :math:`2^{32} - 1`.
    fresh : bool
        Whether to draw a new training set for every epoch.

    Raises
    ------
    OptionError
        If ``steps`` is below 3, a size below 1, the seed out of range, or ``layout`` unknown.

    Notes
    -----
    Sources: Hochreiter and Schmidhuber (1997), in the form of Arjovsky, Shah and Bengio (2016).

    Examples
    --------
    >>> x, target = mr.tasks.Adding(steps=9).sample(4)
    >>> assert x.shape == (4, 9, 2) and torch.allclose((x[..., 0] * x[..., 1]).sum(-1, keepdim=True), target)
    """

    steps: int = 200
    layout: Literal["half", "early"] = "half"
    sizes: tuple[int, int, int] = (100_000, 10_000, 10_000)
    seed: int = 0
    fresh: bool = False

    name: ClassVar[str] = "adding"
    metric_name: ClassVar[str] = "sums within 0.04"
    input_size: ClassVar[int] = 2
    output_size: ClassVar[int] = 1

    def __post_init__(self) -> None:
        require_drawn(self)
        require_layout(self, self.layout, ("half", "early"))
        require_length(self, "steps", self.steps, least=3)

    @property
    def length(self) -> int:
        """Number of time steps of a sequence."""
        return self.steps

    @property
    def sequence_bytes(self) -> int:
        return 8 * self.steps + 8

    def draw(self, count: int, generator: torch.Generator | None) -> TensorDataset:
        """Return sequences of numbers and marks, and their sums, of shape (count, 1)."""
        x = torch.rand(count, self.steps, 2, generator=generator, dtype=torch.float32, device="cpu")
        x[..., 1] = 0
        half = (self.steps - (1 if self.layout == "early" else 0)) // 2
        rows = torch.arange(count, device="cpu")
        for start, stop in ((0, half), (half, self.steps)):
            x[rows, torch.randint(start, stop, (count,), generator=generator, device="cpu"), 1] = 1
        return TensorDataset(x, x.prod(-1).sum(-1, keepdim=True))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error of sums (B, 1)."""
        return functional.mse_loss(outputs, targets)

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the fraction of sums within 0.04."""
        return ((outputs - targets).abs() < _NEAR).float().mean()

    def baseline(self) -> Score:
        """Return the loss 1/6, and the fraction of sums within 0.04 of 1.

        Examples
        --------
        >>> _, target = mr.tasks.Adding().sample(20_000)
        >>> task = mr.tasks.Adding()
        >>> assert abs(task.loss(torch.ones_like(target), target) - task.baseline().loss) < 0.01
        """
        return Score(loss=1 / 6, metric=2 * _NEAR - _NEAR**2)

    def plot(self, axes: "matplotlib.axes.Axes") -> None:
        """Draw the numbers of a sequence, with the marked ones in colour."""
        inputs, targets = self.sample(1, generator=torch.Generator().manual_seed(self.seed))
        steps, numbers = range(self.steps), inputs[0, :, 0].tolist()
        marked = [step for step in steps if inputs[0, step, 1]]
        terms = [numbers[step] for step in marked]
        axes.vlines(steps, 0, numbers, color="0.75", linewidth=1)
        axes.vlines(marked, 0, terms, color="#d55e00", linewidth=2)
        axes.plot(marked, terms, "o", color="#d55e00")
        axes.set(title=f"{self.name}: the sum is {targets.item():.2f}", xlabel="time step", ylim=(0, 1.05))
