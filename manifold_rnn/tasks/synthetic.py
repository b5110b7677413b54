"""Tasks whose sequences are random. The training set is fixed, or drawn again for every epoch."""

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from .._options import is_integer
from ..errors import OptionError
from .base import Splits, Task, require_seed
from .memory import require_memory


class Synthetic(Task):
    """Base class of tasks with random sequences.

    With ``fresh``, epoch 0 uses the fixed training set. Every later epoch draws another set from the seed and the
    number of the epoch. Validation and test sets are fixed.
    """

    sizes: tuple[int, int, int]
    seed: int

    @property
    def sequence_bytes(self) -> int:
        """A lower bound of the bytes that a sequence needs while it is drawn."""
        return self.length

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator | None) -> TensorDataset:
        """Return ``count`` new sequences."""

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw new sequences.

        Parameters
        ----------
        count : int
            Number of sequences.
        generator : torch.Generator, optional
            Source of random numbers. Default: torch's global generator.

        Returns
        -------
        inputs : Tensor, shape (count, T, input_size)
        targets : Tensor, shape (count, ...)
        """
        inputs, targets = self.draw(count, generator)[:]
        return inputs, targets

    def splits(self) -> Splits:
        """Return the three sets. They are equal at every call, and raise `OptionError` if too large."""
        needed = sum(self.sizes) * self.sequence_bytes
        require_memory("task.sizes", needed, "a set of sequences", f"{self.sizes} of {self.length:,} steps")
        generator = torch.Generator().manual_seed(self.seed)
        return Splits(*(self.draw(size, generator) for size in self.sizes))

    def train_epoch(self, epoch: int) -> TensorDataset:
        if not self.fresh or not epoch:
            return self.draw(self.sizes[0], torch.Generator().manual_seed(self.seed))
        (mixed,) = np.random.SeedSequence((self.seed, epoch)).generate_state(1, np.uint64)
        return self.draw(self.sizes[0], torch.Generator().manual_seed(int(mixed) >> 1))


def require_drawn(task: Synthetic) -> None:
    """Raise `OptionError` unless the seed is in range, and there are three sizes of at least 1."""
    require_seed(task.seed)
    if len(task.sizes) != 3 or not all(is_integer(size, 1) for size in task.sizes):
        raise OptionError(
            f"{type(task).__name__} needs sequences for training, validation and test.\n"
            f"Got sizes={task.sizes}.\nUse three sizes of at least 1."
        )


def require_layout(task: Synthetic, layout: str, layouts: tuple[str, str]) -> None:
    """Raise `OptionError` unless the layout is known."""
    if layout not in layouts:
        raise OptionError(
            f"The layout of {type(task).__name__} is unknown.\n"
            f"Expected {layouts[0]!r} or {layouts[1]!r}, got {layout!r}.\nCheck the spelling."
        )


def require_length(task: Synthetic, name: str, length: int, least: int) -> None:
    """Raise `OptionError` if a length is below ``least``."""
    if not is_integer(length, least):
        raise OptionError(
            f"The sequences of {type(task).__name__} are too short.\n"
            f"Expected {name} as an integer of at least {least}, got {length!r}.\nUse a larger value."
        )
