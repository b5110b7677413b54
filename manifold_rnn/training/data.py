"""Batches of a task for Lightning. Their order depends on seed and epoch only, and can be resumed at any batch."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from ..errors import OptionError
from ..tasks import Task
from ..tasks.memory import require_task_in_memory

_LARGEST_EVALUATION = 512


class TrainingLoader:
    """The training batches of an epoch. The position in the epoch is part of a checkpoint.

    ``dataset`` and ``batches`` are functions of the epoch. Lightning sets the epoch on the ``sampler``.
    """

    def __init__(self, dataset: Callable[[int], TensorDataset], batches: Callable[[int], Sequence[list[int]]]) -> None:
        self._dataset, self._batches, self._length = dataset, batches, len(batches(0))
        self.sampler, self._next_epoch = self, 0
        self._epoch, self._batch = 0, 0  # the epoch of the last iteration, and its batches so far

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration. Lightning calls this before each epoch."""
        self._next_epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its finished batches."""
        return {"epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Skip the finished batches of this epoch in the next iteration. Other epochs start at their first batch."""
        self._epoch, self._batch = state_dict["epoch"], state_dict["batch"]

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        epoch = self._next_epoch  # read here, after the trainer has set it
        first = self._batch if self._epoch == epoch else 0
        self._epoch, self._batch = epoch, first
        dataset = self._dataset(epoch)
        for number, indices in enumerate(self._batches(epoch)):
            if number >= first:
                self._batch = number + 1
                yield dataset[indices]
        self._batch = 0  # iterating the same epoch again starts at its first batch


class SequenceData(LightningDataModule):
    """The training, validation and test sets of a task in batches, for any `lightning.pytorch.Trainer`.

    The training set is shuffled in every epoch, by the seed. With several processes, each takes an equal part of every
    batch.

    A task that is ``carried`` is one long stream, whose pieces are not shuffled. Each set is cut into as many rows as a
    batch has. Batch k contains piece k of every row. Pieces that do not fill a row are left out.

    Parameters
    ----------
    task : Task
        Task with the sets.
    batch_size : int
        Number of sequences in a training batch of each process. The last batch of an epoch may be smaller.
    seed : int
        Seed of the order of the training set. Equal seeds give the same order in every epoch.

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
        require_task_in_memory(task)
        self.splits = task.splits()
        self._position: Mapping[str, int] = {"epoch": 0, "batch": 0}
        self._loader: TrainingLoader | None = None

    def require_sequences(self, world: int) -> None:
        """Raise `OptionError` unless each of ``world`` processes gets a sequence of each set."""
        sizes = [len(part) for part in self.splits]
        if min(sizes) < world:
            raise OptionError(
                "Every process needs a sequence of each set.\n"
                f"Got sets of {', '.join(map(str, sizes))} for {world} processes.\nUse fewer processes."
            )

    def training_batches(self, epoch: int, rank: int, world: int) -> list[list[int]]:
        """Return the indices of the training batches of one of several processes."""
        size, count = self.batch_size * world, len(self.splits.train)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(count, generator=generator).split(size)
        return _shares(_rows(count, size) if self.task.carried else order, rank, world)

    def train_dataloader(self) -> TrainingLoader:
        """Return the training batches."""
        task, train = self.task, self.splits.train
        rank, world = self._rank_and_world()
        dataset = task.train_epoch if task.fresh else lambda epoch: train
        self._loader = TrainingLoader(dataset, lambda epoch: self.training_batches(epoch, rank, world))
        self._loader.load_state_dict(self._position)
        return self._loader

    def val_dataloader(self) -> Subset[tuple[Tensor, ...]]:
        """Return the validation set, in order."""
        return self._evaluation_loader(self.splits.validation)

    def test_dataloader(self) -> Subset[tuple[Tensor, ...]]:
        """Return the test set, in order."""
        return self._evaluation_loader(self.splits.test)

    def state_dict(self) -> dict[str, int]:
        """Return the position of the training loader for a checkpoint."""
        # a trainer saves the loader's state too, but does not load it if the module needs the number of steps first
        return {} if self._loader is None else self._loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Start the next training loader at this position."""
        self._position = state_dict

    def _evaluation_loader(self, dataset: TensorDataset) -> Subset[tuple[Tensor, ...]]:
        rank, world = self._rank_and_world()
        count, carried = len(dataset), self.task.carried
        size = (self.batch_size if carried else _LARGEST_EVALUATION) * world
        batches = _rows(count, size) if carried else torch.arange(count).split(size)
        # a batch for every list of indices. It is no DataLoader, so that a trainer does not change the processes'
        # shares
        return Subset(dataset, _shares(batches, rank, world))  # type: ignore[arg-type]

    def _rank_and_world(self) -> tuple[int, int]:
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        self.require_sequences(world)
        return rank, world


def _rows(count: int, rows: int) -> Sequence[Tensor]:
    """The indices of each batch: batch k contains piece k of every row."""
    rows = min(rows, count)
    return torch.arange(count // rows * rows).view(rows, -1).unbind(1)


def _shares(batches: Sequence[Tensor], rank: int, world: int) -> list[list[int]]:
    """The part of each batch for one process. All parts are equal, and a remainder is left out."""
    sizes = [len(batch) // world for batch in batches]
    shares = [batch[rank * size : (rank + 1) * size].tolist() for batch, size in zip(batches, sizes, strict=True)]
    return [share for share in shares if share]
