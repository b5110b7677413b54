"""The interface of a task: three sets of sequences, a loss, a metric, and a baseline."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from torch import Tensor
from torch.utils.data import TensorDataset

from .._options import is_integer
from ..errors import OptionError
from .published import Published, published

if TYPE_CHECKING:
    import matplotlib.axes


class Splits(NamedTuple):
    """The three sets of a task. Each item is a pair of one input sequence and its target.

    Attributes
    ----------
    train, validation, test : TensorDataset

    Examples
    --------
    >>> splits = mr.tasks.Digits().splits()
    >>> assert len(splits.train) + len(splits.validation) + len(splits.test) == 1797
    """

    train: TensorDataset
    validation: TensorDataset
    test: TensorDataset


class Score(NamedTuple):
    """The score of a network or of the baseline.

    Attributes
    ----------
    loss, metric : float

    Examples
    --------
    >>> loss, metric = mr.tasks.Score(loss=2.3, metric=0.1)
    >>> assert (loss, metric) == (2.3, 0.1)
    """

    loss: float
    metric: float


class Task(ABC):
    """A problem for a network that reads sequences.

    A task is a frozen dataclass of plain values, so its fields can become flags and keys of settings files. Data is
    read or drawn only when `splits` is called, or when a size depends on it.

    Attributes
    ----------
    metric_name : str
        Name of the metric.
    higher_is_better : bool
        Whether a larger metric is better.
    every_step : bool
        Whether the network predicts at every time step, or only after the last one.
    carried : bool
        Whether the sequences of a set are consecutive pieces of one stream. Then each row of a batch continues the same
        row of the previous batch, and the network keeps its state between them.
    fresh : bool
        Whether `train_epoch` returns a new set for every epoch.

    See Also
    --------
    Digits : a complete task in one file.

    Examples
    --------
    >>> task = mr.tasks.Digits()
    >>> assert isinstance(task, mr.tasks.Task) and task.metric_name == "accuracy" and not task.carried
    """

    metric_name: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    every_step: ClassVar[bool] = False
    carried: ClassVar[bool] = False
    fresh: bool = False

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the task in tables and plots."""

    @property
    def problem(self) -> str:
        """Beginning of the descriptions of published results, or "" if there are none."""
        return ""

    @property
    @abstractmethod
    def input_size(self) -> int:
        """Number of features of a time step."""

    @property
    @abstractmethod
    def output_size(self) -> int:
        """Number of outputs of the network."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Number of time steps of a sequence."""

    @abstractmethod
    def splits(self) -> Splits:
        """Return the training, validation and test sets. They are equal at every call."""

    def train_epoch(self, epoch: int) -> TensorDataset:
        """Return the training set of an epoch, counted from 0. It depends on the task and the epoch only."""
        return self.splits().train

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, a differentiable scalar."""

    @abstractmethod
    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean metric of a batch, a scalar."""

    @abstractmethod
    def baseline(self) -> Score:
        """Return the score of the best prediction that does not use the input."""

    @abstractmethod
    def plot(self, axes: "matplotlib.axes.Axes") -> None:
        """Draw an example, with titles, into matplotlib axes."""

    def published(self) -> list[Published]:
        """Return the published results on this problem, each with its source."""
        return published(self.problem) if self.problem else []


def require_seed(seed: int) -> None:
    """Raise `OptionError` unless numpy and torch accept the seed."""
    if not is_integer(seed, 0) or seed >= 2**32:
        raise OptionError(
            f"The seed of a task needs to be an integer from 0 to 2^32 - 1.\nGot {seed}.\nChoose another seed."
        )
