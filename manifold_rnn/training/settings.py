"""What ``manifold-rnn demo`` can be told; imports nothing heavy, so that ``--help`` is quick."""

import math
from dataclasses import dataclass
from pathlib import Path

from .. import retractions, zoo
from ..errors import OptionError

_LARGEST_HIDDEN_SIZE = 2048


@dataclass(frozen=True)
class DemoSettings:
    """Settings of the demo, checked when they are made.

    Parameters
    ----------
    epochs : int
        Passes over the training set, for every network.
    hidden_size : int
        Units of the zoo's networks; the LSTM gets the size whose parameter count is closest to theirs.
    seed : int
        Seed of the split, the initial weights and the order of the batches.
    output : str or Path
        Folder for results.json and the pictures; made if missing.
    retraction : str, optional
        Retraction for every network of the zoo: cayley, exp, qr or polar. Default: each network's own.
    batch_size : int
        Sequences in a batch.
    lr : float
        Peak learning rate of the unconstrained weights; the networks derive the rate of the constrained ones from it.
    networks : str
        Networks of the zoo that are trained beside the LSTM, with commas between; or "all".

    Raises
    ------
    OptionError
        If a value is out of range, or the retraction or a network unknown.

    Examples
    --------
    >>> settings = mr.training.DemoSettings(epochs=3, retraction="polar")
    >>> assert (settings.epochs, settings.seed) == (3, 0)
    """

    epochs: int = 30
    hidden_size: int = 64
    seed: int = 0
    output: str | Path = "demo-results"
    retraction: str | None = None
    batch_size: int = 32
    lr: float = 0.01
    networks: str = "dtriv,enrnn,exprnn,full_urnn,scornn,scurnn"

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "--epochs", "an integer of at least 1", self.epochs)
        sizes = 2 <= self.hidden_size <= _LARGEST_HIDDEN_SIZE
        _require(sizes, "--hidden-size", f"an integer from 2 to {_LARGEST_HIDDEN_SIZE}", self.hidden_size)
        _require(0 <= self.seed < 2**32, "--seed", "an integer from 0 to 2^32 - 1", self.seed)
        _require(self.batch_size >= 1, "--batch-size", "an integer of at least 1", self.batch_size)
        _require(0 < self.lr < math.inf, "--lr", "a positive number", self.lr)
        if self.retraction is not None:
            retractions.get(self.retraction)
        known = zoo.available()
        _require(bool(self.chosen()), "--networks", 'names of networks, with commas between, or "all"', self.networks)
        for name in self.chosen():
            _require(name in known, "--networks", f"some of {', '.join(known)}", repr(name))

    def chosen(self) -> list[str]:
        """Return the names of the networks.

        Examples
        --------
        >>> assert mr.training.DemoSettings(networks="scornn, lem").chosen() == ["scornn", "lem"]
        """
        if self.networks == "all":
            return zoo.available()
        return [name.strip() for name in self.networks.split(",") if name.strip()]


def _require(holds: bool, flag: str, expected: str, got: object) -> None:
    if not holds:
        raise OptionError(f"{flag} needs {expected}. Got {got}.")
