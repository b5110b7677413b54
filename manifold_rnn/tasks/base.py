"""What every task brings: three sets of sequences, a loss, a metric, and what a guesser scores."""

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
    """A problem for a network that reads sequences; what training and reports need to know about it.

    A task is a frozen dataclass of plain values, so that flags and files of settings can be made of it. Nothing is read
    or drawn before `splits` is called, apart from what the sizes depend on.

    Attributes
    ----------
    metric_name : str
        What ``metric`` measures.
    higher_is_better : bool
        Whether a larger metric is a better one.
    every_step : bool
        Whether the network has to answer at every step, or after the last one.
    carried : bool
        Whether the sequences of a set are consecutive pieces of one stream. A batch then goes on where the batch before
        ended, row by row, and the state of the network is carried from one to the next.
    fresh : bool
        Whether `train_epoch` is another set for every epoch.

    See Also
    --------
    Digits : a task that is complete in one file.

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
        """What to call it in tables and plots."""

    @property
    def problem(self) -> str:
        """How the descriptions of published results begin, or nothing where there are none."""
        return ""

    @property
    @abstractmethod
    def input_size(self) -> int:
        """Features of a step."""

    @property
    @abstractmethod
    def output_size(self) -> int:
        """Outputs of the network."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Steps of a sequence."""

    @abstractmethod
    def splits(self) -> Splits:
        """Return training, validation and test sets; equal at every call."""

    def train_epoch(self, epoch: int) -> TensorDataset:
        """Return the training set of an epoch, from 0: a function of the task and the epoch alone."""
        return self.splits().train

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar that can be differentiated."""

    @abstractmethod
    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean metric of a batch, a scalar."""

    @abstractmethod
    def baseline(self) -> Score:
        """Return what is reached without looking at the input."""

    @abstractmethod
    def plot(self, axes: "matplotlib.axes.Axes") -> None:
        """Draw an example, with titles, into axes of matplotlib."""

    def published(self) -> list[Published]:
        """Return the published results on this problem that were read in a place that is named."""
        return published(self.problem) if self.problem else []


def require_seed(seed: int) -> None:
    """Raise `OptionError` unless the seed is one that numpy and torch take."""
    if not is_integer(seed, 0) or seed >= 2**32:
        raise OptionError(f"The seed of a task is an integer from 0 to 2^32 - 1.\nGot {seed}.\nChoose another.")
