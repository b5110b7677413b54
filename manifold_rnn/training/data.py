"""Batches of a task for Lightning."""

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import OptionError
from ..tasks import Task

_Loader = DataLoader[tuple[Tensor, ...]]


class SequenceData(LightningDataModule):
    """A task's three sets in batches; the training set is shuffled anew in every epoch, by the seed.

    Parameters
    ----------
    task : Task
        Where the sequences come from.
    batch_size : int
        Sequences in a training batch; the last batch of an epoch may be smaller.
    seed : int
        Seed of the order of the training set: equal seeds give equal orders, epoch by epoch.

    Raises
    ------
    OptionError
        If ``batch_size`` is below 1.

    Examples
    --------
    >>> inputs, targets = next(iter(mr.training.SequenceData(mr.tasks.Digits(), batch_size=5).val_dataloader()))
    >>> assert inputs.shape[1:] == (64, 1) and len(inputs) == len(targets)
    """

    def __init__(self, task: Task, batch_size: int = 32, seed: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise OptionError(f"A batch needs at least 1 sequence.\nGot batch size {batch_size}.\nChoose a larger one.")
        self.task = task
        self.batch_size = batch_size
        self.splits = task.splits()
        self._order = torch.Generator().manual_seed(seed)

    def train_dataloader(self) -> _Loader:
        """Return the shuffled training batches."""
        return DataLoader(self.splits.train, self.batch_size, shuffle=True, generator=self._order)

    def val_dataloader(self) -> _Loader:
        """Return the validation set, in order, in large batches."""
        return DataLoader(self.splits.validation, 512)

    def test_dataloader(self) -> _Loader:
        """Return the test set, in order, in large batches."""
        return DataLoader(self.splits.test, 512)
