"""Batches of a task for Lightning: an order that is a function of seed and epoch, so that a run can go on anywhere."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from ..errors import OptionError
from ..tasks import Task

_Loader = DataLoader[tuple[Tensor, ...]]
_LARGEST_EVALUATION = 512


class SequenceData(LightningDataModule):
    """A task's three sets in batches; the training set is shuffled anew in every epoch, by the seed.

    The pieces of a stream, of a task that is ``carried``, are not shuffled: a set is cut into as many rows as a batch
    has, and batch k holds piece k of every row; pieces that fill no row are left out.

    Parameters
    ----------
    task : Task
        Where the sequences come from.
    batch_size : int
        Sequences in a training batch, of each process; the last batch of an epoch may be smaller.
    seed : int
        Of the order of the training set: equal seeds give equal orders, epoch by epoch.
    epoch, batch : int
        Where to begin: epochs that are over, and batches of the next that are.
    max_steps : int, optional
        Batches of all epochs together; the last epoch is shorter if need be.
    rank, world : int
        This process among all that share each batch.

    Raises
    ------
    OptionError
        If ``batch_size`` is below 1, or a set has not one sequence for each process.

    Examples
    --------
    >>> inputs, targets = next(iter(mr.training.SequenceData(mr.tasks.Digits(), batch_size=5).val_dataloader()))
    >>> assert inputs.shape[1:] == (64, 1) and len(inputs) == len(targets)
    """

    def __init__(
        self,
        task: Task,
        batch_size: int = 32,
        seed: int = 0,
        *,
        epoch: int = 0,
        batch: int = 0,
        max_steps: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise OptionError(f"A batch needs at least 1 sequence.\nGot batch size {batch_size}.\nChoose a larger one.")
        self.task, self.batch_size, self.seed = task, batch_size, seed
        self.epoch, self.batch, self.max_steps = epoch, batch, max_steps
        self.rank, self.world = rank, world
        self.splits = task.splits()
        if min(map(len, self.splits)) < world:
            raise OptionError(
                "Every process needs a sequence of each set.\n"
                f"Got sets of {', '.join(str(len(part)) for part in self.splits)} for {world} processes.\nUse fewer."
            )

    @property
    def batches(self) -> int:
        """Training batches of a whole epoch."""
        return len(self._training(self.splits.train, 0))

    def steps_of(self, epochs: int) -> int:
        """Return the steps of so many epochs, at most ``max_steps``."""
        steps = epochs * self.batches
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def epochs_of(self, epochs: int) -> int:
        """Return how many epochs there are, at most so many, until ``max_steps`` are over."""
        return -(-self.steps_of(epochs) // self.batches)

    def train_dataloader(self) -> _Loader:
        """Return the training batches of the epoch that Lightning is in, or is about to begin."""
        done = 0 if self.trainer is None else self.trainer.current_epoch
        epoch = self.epoch + done
        train = self.task.train_epoch(epoch) if self.task.fresh else self.splits.train
        stop = self.steps_of(epoch + 1) - epoch * self.batches
        return _loader(train, self._training(train, epoch)[0 if done else self.batch : stop])

    def val_dataloader(self) -> _Loader:
        """Return the validation set, in order."""
        return self._evaluation(self.splits.validation)

    def test_dataloader(self) -> _Loader:
        """Return the test set, in order."""
        return self._evaluation(self.splits.test)

    def _training(self, data: Any, epoch: int) -> "_Batches":
        if self.task.carried:
            return _Batches(_rows(len(data), self.batch_size * self.world), self.rank, self.world)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(data), generator=generator)
        return _Batches(order.split(self.batch_size * self.world), self.rank, self.world)

    def _evaluation(self, data: Any) -> _Loader:
        if self.task.carried:
            return _loader(data, _Batches(_rows(len(data), self.batch_size * self.world), self.rank, self.world))
        batches = torch.arange(len(data)).split(_LARGEST_EVALUATION * self.world)
        return _loader(data, _Batches(batches, self.rank, self.world))


class _Batches(Sampler[list[int]]):
    """The part of one process of batches of indices: an equal one, which may leave out the last few."""

    def __init__(self, batches: Sequence[Tensor], rank: int, world: int) -> None:
        self.batches, self.rank, self.world = [b for b in batches if len(b) >= world], rank, world

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, part: slice) -> "_Batches":
        return _Batches(self.batches[part], self.rank, self.world)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            share = len(batch) // self.world
            yield batch[self.rank * share : (self.rank + 1) * share].tolist()


def _rows(length: int, rows: int) -> Sequence[Tensor]:
    """Batch k has piece k of every row."""
    rows = min(rows, length)
    return torch.arange(length // rows * rows).view(rows, -1).unbind(1)


def _loader(data: Dataset[Any], batches: _Batches) -> _Loader:
    # a generator of its own, or each loader would draw a number from torch's
    if isinstance(data, TensorDataset):  # which takes a whole batch of indices, many times faster than one by one
        return DataLoader(data, batch_size=None, sampler=batches, generator=torch.Generator())
    return DataLoader(data, batch_sampler=batches, generator=torch.Generator())
