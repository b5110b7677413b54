"""What every task brings: three sets of sequences, a loss, a metric, and what a guesser scores."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor
from torch.utils.data import TensorDataset


class Splits(NamedTuple):
    """The three sets of a task; each item is a pair of one input sequence and its target.

    Examples
    --------
    >>> splits = mr.tasks.Digits().splits()
    >>> assert len(splits.train) + len(splits.validation) + len(splits.test) == 1797
    """

    train: TensorDataset
    validation: TensorDataset
    test: TensorDataset


class Score(NamedTuple):
    """A loss and a metric, each a plain number.

    Examples
    --------
    >>> loss, metric = mr.tasks.Score(loss=2.3, metric=0.1)
    >>> assert (loss, metric) == (2.3, 0.1)
    """

    loss: float
    metric: float


class Task(ABC):
    """A problem for a network that reads sequences; what training and reports need to know about it.

    Attributes
    ----------
    name : str
        What to call it in tables and plots.
    metric_name : str
        What ``metric`` measures.
    input_size, output_size, length : int
        Features of a step, outputs of the network, steps of a sequence.

    See Also
    --------
    Digits : a task that is complete in one file.

    Examples
    --------
    >>> task = mr.tasks.Digits()
    >>> assert isinstance(task, mr.tasks.Task) and task.metric_name == "accuracy"
    """

    name: ClassVar[str]
    metric_name: ClassVar[str]
    input_size: ClassVar[int]
    output_size: ClassVar[int]
    length: ClassVar[int]

    @abstractmethod
    def splits(self) -> Splits:
        """Return training, validation and test sets; equal at every call."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar that can be differentiated."""

    @abstractmethod
    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean metric of a batch, a scalar."""

    @abstractmethod
    def baseline(self) -> Score:
        """Return what is reached without looking at the input."""
