"""What a person sees while networks train, what is remembered of each epoch, and how Ctrl-C is heard."""

import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ..tasks import Task
from .report import EpochRecord


class StopRequested(Exception):
    """Raised between two batches after Ctrl-C; unlike KeyboardInterrupt, Lightning lets it pass."""


class Display(ABC):
    """Where progress goes."""

    @abstractmethod
    def start(self, name: str, task: Task, epochs: int, batches: int) -> None:
        """Announce a network, what it learns, its epochs, and the batches in each."""

    @abstractmethod
    def batch(self) -> None:
        """Count one batch."""

    @abstractmethod
    def epoch(self, record: EpochRecord) -> None:
        """Show an epoch that has ended."""


class SilentDisplay(Display):
    """Nothing."""

    def start(self, name: str, task: Task, epochs: int, batches: int) -> None:
        """Do nothing."""

    def batch(self) -> None:
        """Do nothing."""

    def epoch(self, record: EpochRecord) -> None:
        """Do nothing."""


class LineDisplay(Display):
    """One line an epoch, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def start(self, name: str, task: Task, epochs: int, batches: int) -> None:
        """Note what stands on every line."""
        self._name, self._task, self._epochs = name, task, epochs

    def batch(self) -> None:
        """Do nothing: a line stands for a whole epoch."""

    def epoch(self, record: EpochRecord) -> None:
        """Print the line."""
        width = len(str(self._epochs))
        self._console.print(
            f"{self._name:<10} epoch {record.epoch:>{width}}/{self._epochs}   loss {record.train_loss:.4g}   "
            f"val {shown_metric(self._task, record.val_metric)}   {record.seconds:.2f} s",
            highlight=False,
            soft_wrap=True,
        )


class BarDisplay(Display):
    """One bar a network, for terminals."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._step = 1.0

    def start(self, name: str, task: Task, epochs: int, batches: int) -> None:
        """Draw an empty bar."""
        self._task, self._step = task, 1 / batches
        self._bar = self._bars.add_task(name, total=epochs, scores="")

    def batch(self) -> None:
        """Move the bar."""
        self._bars.advance(self._bar, self._step)

    def epoch(self, record: EpochRecord) -> None:
        """Bring the scores beside the bar up to date."""
        scores = f"loss {record.train_loss:.4g}  val {shown_metric(self._task, record.val_metric)}"
        self._bars.update(self._bar, completed=record.epoch, scores=scores)


def shown_metric(task: Task, value: float) -> str:
    """Return the metric's name and a value: a fraction of what is right as a percentage, an error as it is."""
    return f"{task.metric_name} {value:.1%}" if task.higher_is_better else f"{task.metric_name} {value:.4g}"


@contextmanager
def display(console: Console) -> Iterator[Display]:
    """Show bars on a terminal, else lines."""
    if not console.is_terminal:
        yield LineDisplay(console)
        return
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=24),
        TextColumn("epoch {task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[scores]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield BarDisplay(bars)


@contextmanager
def stop_on_interrupt(console: Console) -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag, which the yielded function reads; the second ends the program at once."""
    requested = threading.Event()

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if requested.is_set():
            sys.exit(130)
        requested.set()
        console.print("Stopping after this batch. Ctrl-C again quits at once.", style="yellow")

    if threading.current_thread() is not threading.main_thread():  # only there can a handler be set
        yield requested.is_set
        return
    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield requested.is_set
    finally:
        signal.signal(signal.SIGINT, previous)


class Watcher(Callback):
    """Keeps the history of a run, shows it, and stops it on request.

    Parameters
    ----------
    show : Display
    stop : callable
        Asked before every batch.
    history : list of EpochRecord, optional
        Epochs of a run that goes on; this one is appended to it.
    seconds : float
        What the epoch that it is in took so far.

    Attributes
    ----------
    history : list of EpochRecord
    seconds : float
    """

    def __init__(
        self,
        show: Display,
        stop: Callable[[], bool],
        history: list[EpochRecord] | None = None,
        seconds: float = 0.0,
    ) -> None:
        self.history = [] if history is None else history
        self.seconds = seconds
        self._show, self._stop = show, stop
        self._began = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began = time.perf_counter() - self.seconds

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop here if that was asked for."""
        if self._stop():
            raise StopRequested

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the clock."""
        self.seconds = time.perf_counter() - self._began  # the last batch's value leaves validation out
        self._show.batch()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a record, and show it."""
        module: Any = pl_module
        scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
        record = EpochRecord(
            epoch=len(self.history) + 1,
            train_loss=module.train_loss(),
            val_loss=scores["val_loss"],
            val_metric=scores["val_metric"],
            seconds=self.seconds,
        )
        self.history.append(record)
        self.seconds = 0.0
        self._show.epoch(record)
