"""Sequences of symbols that become one-hot vectors only when they are read."""

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import TensorDataset


class OneHot(TensorDataset):
    """Sequences of symbols that are stored as small integers, and become one-hot vectors when they are read.

    Parameters
    ----------
    symbols : Tensor of any integer dtype, shape (N, T)
        Input symbols, from 0 to ``kinds - 1``.
    targets : Tensor of any integer dtype, shape (N, ...)
        Target of each sequence or time step.
    kinds : int
        Size of the one-hot vectors.

    Examples
    --------
    >>> symbols = torch.tensor([[0, 2], [1, 1]], dtype=torch.uint8)
    >>> inputs, targets = mr.tasks.OneHot(symbols, symbols, kinds=3)[0]
    >>> assert inputs.tolist() == [[1, 0, 0], [0, 0, 1]] and targets.dtype == torch.int64
    """

    def __init__(self, symbols: Tensor, targets: Tensor, kinds: int) -> None:
        super().__init__(symbols, targets)
        self.kinds = kinds

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> tuple[Tensor, ...]:
        symbols, targets = (tensor[index].long() for tensor in self.tensors)
        return functional.one_hot(symbols, self.kinds).to(torch.float32), targets
