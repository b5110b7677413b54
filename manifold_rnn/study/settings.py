"""Settings of a comparison; imports nothing heavy."""

import math
from dataclasses import dataclass
from pathlib import Path

from ..training.choices import require


@dataclass(frozen=True)
class CompareSettings:
    """Settings of a comparison.

    Parameters
    ----------
    grid : str
        YAML file of the comparison, see `Grid`.
    output : str, optional
        Folder for the study, the runs and the report. Default: a folder in runs with the name of the file.
    storage : str, optional
        Storage of the study: sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/DATABASE, for many machines.
        Default: a journal in the output folder.
    study : str, optional
        Name of the study in its storage. Default: that of the file.
    workers : int
        Processes on this machine; 0 only writes the report.
    extend : bool
        Whether to add to an existing study: values to a grid, seeds, or trials to a search.
    patience : float
        Seconds without a heartbeat after which a worker on another machine counts as dead.

    Raises
    ------
    OptionError
        If a value is out of range.

    Examples
    --------
    >>> settings = mr.study.CompareSettings("grids/digits.yaml", workers=2)
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
        require(self.workers >= 0, "workers", "an integer of at least 0", self.workers)
        require(1 <= self.patience < math.inf, "patience", "a number of at least 1", self.patience)

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.study or Path(self.grid).stem

    @property
    def folder(self) -> Path:
        """Output folder."""
        return Path(self.output or f"runs/{self.name}")
