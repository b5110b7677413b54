"""Tasks whose sequences are drawn at random: a fixed training set, or another one for every epoch."""

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import TensorDataset

from ..errors import OptionError
from .base import Splits, Task, require_seed


class OneHot(TensorDataset):
    """Sequences of symbols that are kept as small integers, and become one-hot vectors where they are read.

    Parameters
    ----------
    symbols : Tensor of any integer dtype, shape (N, T)
    targets : Tensor of any integer dtype, shape (N, ...)
    kinds : int
        Size of the vectors.

    Examples
    --------
    >>> symbols = torch.tensor([[0, 2], [1, 1]], dtype=torch.uint8)
    >>> inputs, targets = mr.tasks.OneHot(symbols, symbols, kinds=3)[0]
    >>> assert inputs.tolist() == [[1, 0, 0], [0, 0, 1]] and targets.dtype == torch.int64
    """

    def __init__(self, symbols: Tensor, targets: Tensor, kinds: int) -> None:
        super().__init__(symbols, targets)
        self.kinds = kinds

    def __getitem__(self, index: int | slice | Tensor) -> tuple[Tensor, ...]:
        symbols, targets = (tensor[index].long() for tensor in self.tensors)
        return functional.one_hot(symbols, self.kinds).to(torch.float32), targets


class Synthetic(Task):
    """A task that draws its sequences.

    Epoch 0 of a fresh training set is the fixed one; every later epoch has random numbers of its own, made from the
    seed and its number. Validation and test sets are fixed.
    """

    sizes: tuple[int, int, int]
    seed: int

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator | None) -> TensorDataset:
        """Return so many new sequences."""

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw sequences.

        Parameters
        ----------
        count : int
        generator : torch.Generator, optional

        Returns
        -------
        inputs : Tensor, shape (count, T, input_size)
        targets : Tensor, shape (count, ...)
        """
        inputs, targets = self.draw(count, generator)[:]
        return inputs, targets

    def splits(self) -> Splits:
        """Return the three sets, always the same ones."""
        generator = torch.Generator().manual_seed(self.seed)
        return Splits(*(self.draw(size, generator) for size in self.sizes))

    def train_epoch(self, epoch: int) -> TensorDataset:
        if not self.fresh or not epoch:
            return self.draw(self.sizes[0], torch.Generator().manual_seed(self.seed))
        (mixed,) = np.random.SeedSequence((self.seed, epoch)).generate_state(1, np.uint64)
        return self.draw(self.sizes[0], torch.Generator().manual_seed(int(mixed >> 1)))


def require_sizes(task: Synthetic, layouts: tuple[str, str], layout: str, **lengths: int) -> None:
    """Raise `OptionError` unless the layout is known and everything that is counted is at least 1."""
    name = type(task).__name__
    require_seed(task.seed)
    if layout not in layouts:
        raise OptionError(
            f"{name} has two layouts.\nExpected {layouts[0]!r} or {layouts[1]!r}, got {layout!r}.\nCheck the spelling."
        )
    (counted, length), *_ = lengths.items()
    if length < 1 or len(task.sizes) != 3 or min(task.sizes) < 1:
        raise OptionError(
            f"{name} has sequences to train, validate and test on, and room for what is to be remembered.\n"
            f"Got sizes={task.sizes}, or {counted} too small.\nUse three sizes from 1 up, and a larger {counted}."
        )
