"""Batches of a task for Lightning, in an order that is a function of seed and epoch, and resumable at any batch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import Sampler, TensorDataset

from ..errors import OptionError
from ..tasks import Task

Batch = tuple[Tensor, ...]
_LARGEST_EVALUATION = 512


class EpochSampler(Sampler[list[int]]):
    """The batches of indices of one epoch, or the part of them that one process trains on.

    Parameters
    ----------
    batches : callable
        Returns the batches of all processes together in an epoch, counted from 0.
    rank, world : int
        Number of this process, and the number of processes that share each batch in equal parts. The last few indices
        of a batch that do not divide evenly are left out.

    Examples
    --------
    >>> sampler = mr.training.EpochSampler(lambda epoch: torch.arange(6).roll(epoch).split(4), rank=1, world=2)
    >>> sampler.set_epoch(1)
    >>> assert list(sampler) == [[1, 2], [4]] and len(sampler) == 2
    """

    def __init__(self, batches: Callable[[int], Sequence[Tensor]], rank: int = 0, world: int = 1) -> None:
        self.batches, self.rank, self.world = batches, rank, world
        self.epoch = 0
        self._length = sum(len(batch) >= world for batch in batches(0))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches(self.epoch):
            share = len(batch) // self.world
            if share:
                yield batch[self.rank * share : (self.rank + 1) * share].tolist()


class SequenceLoader:
    """An iterable over the batches of a data set.

    It is no ``DataLoader``, so that a trainer does not replace its sampler, which shares batches among processes.

    Parameters
    ----------
    dataset : callable
        Returns the data set of an epoch, which takes a list of indices.
    sampler : EpochSampler

    Examples
    --------
    >>> data = torch.utils.data.TensorDataset(torch.arange(4))
    >>> loader = mr.training.SequenceLoader(lambda epoch: data, mr.training.EpochSampler(lambda _: torch.eye(4).long()))
    >>> assert len(list(loader)) == len(loader) == 4
    """

    def __init__(self, dataset: Callable[[int], TensorDataset], sampler: EpochSampler) -> None:
        self._dataset, self._indices = dataset, sampler

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[Batch]:
        dataset = self._dataset(self._indices.epoch)
        for indices in self._indices:
            yield dataset[indices]


class ResumableLoader(SequenceLoader):
    """A loader of training batches whose position is part of a checkpoint.

    Examples
    --------
    >>> loader = mr.training.SequenceData(mr.tasks.Digits(), 500).train_dataloader()
    >>> batches = iter(loader); first = next(batches); state = loader.state_dict()
    >>> second = next(batches)
    >>> loader.load_state_dict(state)
    >>> assert torch.equal(next(iter(loader))[0], second[0])
    """

    def __init__(self, dataset: Callable[[int], TensorDataset], sampler: EpochSampler) -> None:
        super().__init__(dataset, sampler)
        self.sampler = sampler  # where the trainer sets the epoch
        self._epoch, self._batch = 0, 0  # the epoch of the last iteration, and its batches so far

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its batches that are over."""
        return {"epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Skip the batches that are over when this epoch is iterated next; another epoch starts at its first batch."""
        self._epoch, self._batch = state_dict["epoch"], state_dict["batch"]

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.sampler.epoch  # read at the first batch, so after the trainer has set it
        first = self._batch if self._epoch == epoch else 0
        self._epoch, self._batch = epoch, first
        dataset = self._dataset(epoch)
        for number, indices in enumerate(self.sampler):
            if number >= first:
                self._batch = number + 1
                yield dataset[indices]
        self._batch = 0  # iterating the same epoch again starts at its first batch


class SequenceData(LightningDataModule):
    """The three sets of a task in batches, for any `lightning.pytorch.Trainer`.

    The training set is shuffled in every epoch, by the seed. Under several processes each takes an equal part of every
    batch. The pieces of a stream, of a task that is ``carried``, are not shuffled: a set is cut into as many rows as a
    batch has, and batch k holds piece k of every row; pieces that fill no row are left out.

    Parameters
    ----------
    task : Task
    batch_size : int
        Sequences in a training batch of each process; the last batch of an epoch may be smaller.
    seed : int
        Seed of the order of the training set: equal seeds give equal orders, epoch by epoch.

    Raises
    ------
    OptionError
        If ``batch_size`` is below 1, or a set has fewer sequences than there are processes.

    Examples
    --------
    >>> inputs, targets = next(iter(mr.training.SequenceData(mr.tasks.Digits(), batch_size=5).val_dataloader()))
    >>> assert inputs.shape[1:] == (64, 1) and len(inputs) == len(targets)
    """

    def __init__(self, task: Task, batch_size: int = 32, seed: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise OptionError(f"A batch needs at least 1 sequence.\nGot batch size {batch_size}.\nChoose a larger one.")
        self.task, self.batch_size, self.seed = task, batch_size, seed
        self.splits = task.splits()
        self._position: dict[str, int] = {}
        self._loader: ResumableLoader | None = None

    def require_sequences(self, world: int) -> None:
        """Raise `OptionError` unless each of so many processes has a sequence of each set."""
        sizes = [len(part) for part in self.splits]
        if min(sizes) < world:
            raise OptionError(
                "Every process needs a sequence of each set.\n"
                f"Got sets of {', '.join(map(str, sizes))} for {world} processes.\nUse fewer processes."
            )

    def batches_per_epoch(self, world: int) -> int:
        """Return the training batches of an epoch for so many processes."""
        return len(EpochSampler(lambda epoch: self._training_batches(epoch, world), 0, world))

    def train_dataloader(self) -> ResumableLoader:
        """Return the training batches."""
        rank, world = self._rank_and_world()
        sampler = EpochSampler(lambda epoch: self._training_batches(epoch, world), rank, world)
        self._loader = ResumableLoader(self._training_set, sampler)
        self._loader.load_state_dict({**self._loader.state_dict(), **self._position})
        return self._loader

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the training loader for a checkpoint."""
        # a trainer saves it too, but does not load it if the module asks for the number of steps before
        return {} if self._loader is None else self._loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start the next training loader at this position."""
        self._position = state_dict

    def val_dataloader(self) -> SequenceLoader:
        """Return the validation set, in order."""
        return self._evaluation_loader(self.splits.validation)

    def test_dataloader(self) -> SequenceLoader:
        """Return the test set, in order."""
        return self._evaluation_loader(self.splits.test)

    def _training_set(self, epoch: int) -> TensorDataset:
        return self.task.train_epoch(epoch) if self.task.fresh else self.splits.train

    def _training_batches(self, epoch: int, world: int) -> Sequence[Tensor]:
        count = len(self.splits.train)
        if self.task.carried:
            return _rows(count, self.batch_size * world)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(count, generator=generator).split(self.batch_size * world)

    def _evaluation_loader(self, dataset: TensorDataset) -> SequenceLoader:
        rank, world = self._rank_and_world()
        carried, size = self.task.carried, self.batch_size if self.task.carried else _LARGEST_EVALUATION
        count = len(dataset)
        batches = _rows(count, size * world) if carried else torch.arange(count).split(size * world)
        return SequenceLoader(lambda epoch: dataset, EpochSampler(lambda epoch: batches, rank, world))

    def _rank_and_world(self) -> tuple[int, int]:
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        self.require_sequences(world)
        return rank, world


def _rows(count: int, rows: int) -> Sequence[Tensor]:
    """Batch k has piece k of every row."""
    rows = min(rows, count)
    return torch.arange(count // rows * rows).view(rows, -1).unbind(1)
