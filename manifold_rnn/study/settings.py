"""Settings of the command ``compare``."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from ..training.choices import require, require_folder
from ..training.fields import check_fields


@dataclass(frozen=True)
class CompareSettings:
    """Settings of a comparison.

    Parameters
    ----------
    grid : str
        YAML file of the comparison, see `Grid`.
    output : str, optional
        Folder for the study, the runs and the report. Default: a folder in ``runs`` with the name of the file.
    storage : str, optional
        Storage of the study: sqlite:///FILE, or postgresql://USER:PASSWORD@HOST:PORT/DATABASE for many machines.
        Default: a journal in the output folder.
    study : str, optional
        Name of the study in its storage. Default: the name of the file.
    workers : int
        Number of processes on this machine. 0 only writes the report.
    extend : bool
        Whether to add to an existing study: values to a grid, seeds, or trials to a search.
    retry_failed : bool
        Whether to run all failed cases again.
    retry : str, optional
        Name of the failed cases to run again, as printed, or as their folders are named. ``*`` matches any text.
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
    storage: str | None = field(default=None, repr=False)  # not in repr: it may contain a password
    study: str | None = None
    workers: int = 1
    extend: bool = False
    retry_failed: bool = False
    retry: str | None = None
    patience: float = 60.0

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.workers >= 0, "workers", "an integer of at least 0", self.workers)
        require(self.workers <= 1024, "workers", "an integer of at most 1024", self.workers)
        require_folder("output", self.folder if self.output is None else self.output)
        require(self.study is None or bool(self.study.strip()), "study", "a name", repr(self.study))
        require(1 <= self.patience < math.inf, "patience", "a number of at least 1", self.patience)

    @property
    def name(self) -> str:
        """Name of the study."""
        is_pipe = str(Path(self.grid).parent) in ("/dev/fd", "/proc/self/fd")  # its number differs each time
        return self.study or ("stdin" if is_pipe else Path(self.grid).stem)

    @property
    def folder(self) -> Path:
        """Output folder."""
        return require_folder("output", self.output or f"runs/{self.name}")
