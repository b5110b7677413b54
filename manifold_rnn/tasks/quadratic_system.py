"""Reproduce the outputs of a random quadratic network."""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import TensorDataset

from .._options import is_integer
from ..errors import OptionError
from .base import Score
from .memory import require_memory
from .synthetic import Synthetic, require_drawn, require_length

if TYPE_CHECKING:
    import matplotlib.axes

_LONGEST = 4  # largest number of time steps, because longer sequences may overflow
_MEASURED = 100_000  # number of sequences for estimating the variance of the outputs


@dataclass(frozen=True)
class QuadraticSystem(Synthetic):
    r"""Reproduce the outputs of a random quadratic network with Gaussian inputs.

    .. math:: h_t = (A x_t + U h_{t-1})^2, \qquad y = C^\top h_T + \epsilon, \qquad x_t \sim N(0, I).

    The rows of A have norm 1. The entries of U, C and the noise are normal. Their standard deviations are ``coupling``,
    1 and ``noise``.

    **Loss**: mean squared error of y, which is predicted after the last step.
    **Metric**: R², 1 minus the loss divided by the variance of y.
    **Baseline**: the mean of y has the variance of y as loss, and an R² of 0. The variance is measured on 100,000
    sequences.

    Parameters
    ----------
    features, units, outputs : int
        Sizes of x, h and y.
    steps : int
        Number T of time steps, from 2 to 4. Longer sequences overflow too often.
    coupling, noise : float
        Standard deviations of the entries of U and of the noise, at least 0.
    sizes : tuple of int
        Number of sequences for training, validation and test.
    seed : int
        Random seed of the network and of all sequences, from 0 to :math:`2^{32} - 1`.
    fresh : bool
        Whether to draw a new training set for every epoch.

    Raises
    ------
    OptionError
        If a size, ``steps`` or the seed is out of range, or a standard deviation is negative or not finite. When
        sequences are drawn, if their outputs overflow or the system does not fit into memory.

    Notes
    -----
    `manifold_rnn.moments` solves this problem. Source: Sedghi and Anandkumar (2016).

    Examples
    --------
    >>> task = mr.tasks.QuadraticSystem(noise=0.0)
    >>> x, y = task.sample(5)
    >>> A, U, C = task.weights()
    >>> h = ((x[:, 1] @ A.T) + (x[:, 0] @ A.T).square() @ U.T).square()
    >>> assert torch.allclose(h @ C, y, atol=1e-4)
    """

    features: int = 4
    units: int = 3
    outputs: int = 3
    steps: int = 2
    coupling: float = 0.15
    noise: float = 0.1
    sizes: tuple[int, int, int] = (200_000, 10_000, 10_000)
    seed: int = 0
    fresh: bool = False

    name: ClassVar[str] = "quadratic system"
    metric_name: ClassVar[str] = "R²"

    def __post_init__(self) -> None:
        require_drawn(self)
        require_length(self, "steps", self.steps, least=2)
        for name in ("features", "units", "outputs", "steps"):
            value, most = getattr(self, name), _LONGEST if name == "steps" else 2**31 - 1
            if not is_integer(value, 1) or value > most:
                raise OptionError(
                    f"QuadraticSystem needs {name} from {2 if name == 'steps' else 1} to {most}.\nGot {value!r:.40}.\n"
                    f"Change {name}."
                )
        for name in ("coupling", "noise"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise OptionError(
                    f"The {name} of QuadraticSystem needs to be a standard deviation.\n"
                    f"Expected a finite number of at least 0, got {value!r:.40}.\nUse a number such as 0.1."
                )

    @property
    def input_size(self) -> int:
        """Number of features of a time step."""
        return self.features

    @property
    def output_size(self) -> int:
        """Number of outputs of the system."""
        return self.outputs

    @property
    def length(self) -> int:
        """Number of time steps of a sequence."""
        return self.steps

    @property
    def sequence_bytes(self) -> int:
        return 4 * (self.steps * self.features + self.outputs)

    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return A (units, features), U (units, units) and C (units, outputs) of the system.

        Raises `OptionError` if they do not fit into memory.

        Examples
        --------
        >>> A, U, C = mr.tasks.QuadraticSystem(seed=3).weights()
        >>> assert torch.allclose(A.norm(dim=1), torch.ones(3))
        """
        numbers = self.units * (self.features + self.units + self.outputs)
        require_memory("task.units", 4 * numbers, "a system", self.units)
        (mixed,) = np.random.SeedSequence((self.seed, 0)).generate_state(1, np.uint64)  # not the seeds of sequences
        generator = torch.Generator().manual_seed(int(mixed) >> 1)
        shapes = ((self.units, self.features), (self.units, self.units), (self.units, self.outputs))
        A, U, C = (torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu") for shape in shapes)
        return A / A.norm(dim=1, keepdim=True), self.coupling * U, C

    def draw(self, count: int, generator: torch.Generator | None) -> TensorDataset:
        """Return sequences (count, T, features), and their outputs (count, outputs).

        Raises `OptionError` if the outputs or their squares are not finite, or the states do not fit into memory.
        """
        A, U, C = self.weights()
        require_memory("task.units", 4 * count * self.units, "a set of states", f"{self.units}, {count:,} sequences")
        shape = (count, self.steps, self.features)
        x = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        h = x.new_zeros(count, self.units)
        for x_t in x.unbind(1):
            h = (x_t @ A.T + h @ U.T).square()
        noise = torch.randn(count, self.outputs, generator=generator, dtype=torch.float32, device="cpu")
        y = h @ C + self.noise * noise
        if not y.square().sum().isfinite():
            raise OptionError(
                f"The squares of the outputs of QuadraticSystem overflow with coupling={self.coupling}, "
                f"noise={self.noise} and {self.steps} steps.\nUse smaller values."
            )
        return TensorDataset(x, y)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error of outputs (B, k)."""
        return functional.mse_loss(outputs, targets)

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return R² with respect to the variance of the whole system."""
        return 1 - functional.mse_loss(outputs, targets) / self.baseline().loss

    def baseline(self) -> Score:
        """Return the variance of the outputs as loss, and an R² of 0.

        Examples
        --------
        >>> assert mr.tasks.QuadraticSystem().baseline().loss > 0.1
        """
        return Score(loss=_variance(self), metric=0.0)

    def plot(self, axes: "matplotlib.axes.Axes") -> None:
        """Draw an output against the first unit's projection of the last input."""
        inputs, targets = self.sample(300, generator=torch.Generator().manual_seed(self.seed))
        projection = inputs[:, -1] @ self.weights()[0][0]
        axes.plot(projection.tolist(), targets[:, 0].tolist(), ".", markersize=3)
        axes.set(title=f"{self.name}: output 0", xlabel="first unit's projection of the last input")


@cache
def _variance(task: QuadraticSystem) -> float:
    _, targets = task.sample(_MEASURED, generator=torch.Generator().manual_seed(task.seed))
    return float(targets.double().var(0).mean())
