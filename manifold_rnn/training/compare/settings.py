"""What ``manifold-rnn compare`` can be told; imports nothing heavy, so that ``--help`` is quick."""

import math
from dataclasses import dataclass
from pathlib import Path

from ...errors import OptionError


@dataclass(frozen=True)
class CompareSettings:
    """Settings of a comparison, checked when they are made.

    Parameters
    ----------
    grid : str
        YAML file that says what is compared.
    output : str, optional
        Folder for the study, the runs, and the report. Default: a folder named like the file, in runs.
    storage : str, optional
        Where the study is kept: sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/DATABASE, for many machines.
        Default: a journal in the output folder.
    study : str, optional
        Name of the study in its storage. Default: that of the file.
    workers : int
        Processes on this machine; 0 only writes the report of what there is.
    extend : bool
        Add to a study that exists: values to a grid, seeds, trials to a search.
    patience : float
        Seconds without a sign of life after which a worker on another machine counts as dead.

    Raises
    ------
    OptionError
        If a value is out of range.

    Examples
    --------
    >>> settings = mr.training.CompareSettings("grids/digits.yaml", workers=2)
    >>> assert settings.name == "digits" and settings.folder.as_posix() == "runs/digits"
    """

    grid: str
    output: str | None = None
    storage: str | None = None
    study: str | None = None
    workers: int = 1
    extend: bool = False
    patience: float = 60.0

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise OptionError(f"--workers needs an integer of at least 0. Got {self.workers}.")
        if not 1 <= self.patience < math.inf:
            raise OptionError(f"--patience needs a number of at least 1. Got {self.patience}.")

    @property
    def name(self) -> str:
        """Name of the study.

        Examples
        --------
        >>> assert mr.training.CompareSettings("digits.yaml", study="a").name == "a"
        """
        return self.study or Path(self.grid).stem

    @property
    def folder(self) -> Path:
        """Where everything is put.

        Examples
        --------
        >>> assert mr.training.CompareSettings("digits.yaml", output="here").folder.name == "here"
        """
        return Path(self.output) if self.output else Path("runs") / self.name
