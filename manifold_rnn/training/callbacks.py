"""What a run adds to Lightning's own callbacks: safe checkpoint files, the history, requests to stop, lines."""

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from ..diagnostics import spectrum
from ..tasks import Task
from .checkpoint import BEST, LAST, RUN, read_checkpoint, run_entry, write_checkpoint
from .module import SequenceModule
from .random_state import random_state, set_random_state
from .record import Epoch
from .settings import RunSettings
from .signals import StopRequested, StopSignal

_LARGEST_SPECTRUM = 512


class SafeCheckpointIO(CheckpointIO):
    """Lightning's plugin for checkpoint files, with files that are never half written and always checked.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "x.ckpt")
    ...     mr.training.SafeCheckpointIO().save_checkpoint({"epoch": 1}, path)
    ...     try: mr.training.SafeCheckpointIO().load_checkpoint(path)
    ...     except mr.errors.OptionError as error: assert "another content" in str(error)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        write_checkpoint(Path(path), checkpoint)

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        """Read a checkpoint, onto the CPU; nothing in it is executed."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)


class RunHistory(Callback):
    """Keeps the history of a run and all sources of random numbers in its checkpoints, and ends it after max_steps.

    Parameters
    ----------
    settings : RunSettings

    Attributes
    ----------
    epochs : list of Epoch
    seconds : float
        Time of the training batches of the epoch that is under way.
    batch : int
        Its batches so far.
    spectrum_start : list of pairs of float
        Eigenvalues before the first step.
    """

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self.epochs: list[Epoch] = []
        self.seconds, self.batch = 0.0, 0
        self.spectrum_start: list[list[float]] = []
        self._started_at = 0.0
        self._random_state: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the settings, the history and the random state."""
        state = {"history": list(self.epochs), "seconds": self.seconds, "batch": self.batch}
        state |= {"spectrum_start": self.spectrum_start, "random": random_state()}
        checkpoint[RUN] = run_entry(self.settings, state)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the history, and remember the random state until training starts."""
        if trainer.state.fn == TrainerFn.FITTING:
            state = checkpoint[RUN]
            self.epochs, self.seconds, self.batch = list(state["history"]), state["seconds"], state["batch"]
            self.spectrum_start, self._random_state = state["spectrum_start"], state["random"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the random state that was loaded, and end a run that is over."""
        assert isinstance(pl_module, SequenceModule)
        if trainer.global_step == 0:
            self.spectrum_start = eigenvalues(pl_module)
        self._started_at = time.perf_counter() - self.seconds
        early = trainer.early_stopping_callback
        if isinstance(early, EarlyStopping) and self.settings.patience is not None:
            early.patience = self.settings.patience  # which may have changed since the checkpoint
            trainer.should_stop = early.wait_count >= early.patience
        trainer.should_stop |= self._reached_max_steps(trainer)
        if self._random_state is not None:
            set_random_state(self._random_state)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started_at = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the clock, and stop after ``max_steps``: the epoch is then validated and ends."""
        self.seconds, self.batch = time.perf_counter() - self._started_at, batch_idx + 1
        trainer.should_stop |= self._reached_max_steps(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch to the history."""
        assert isinstance(pl_module, SequenceModule)
        loss, metric = (float(trainer.callback_metrics[name]) for name in ("val_loss", "val_metric"))
        scores = {"train_loss": pl_module.train_loss(), "val_loss": loss, "val_metric": metric}
        self.epochs.append({"epoch": len(self.epochs) + 1, **scores, "seconds": self.seconds})  # type: ignore[typeddict-item]
        self.seconds, self.batch = 0.0, 0

    def _reached_max_steps(self, trainer: Trainer) -> bool:
        return self.settings.max_steps is not None and trainer.global_step >= self.settings.max_steps


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint with the lowest validation loss.

    Parameters
    ----------
    folder : Path
        Its place may change between two processes of a run.
    """

    def __init__(self, folder: Path) -> None:
        name = Path(BEST).stem
        options: dict[str, Any] = {"monitor": "val_loss", "save_on_train_epoch_end": True}
        super().__init__(folder, name, enable_version_counter=False, **options)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best_model_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        best, path = state_dict["best"], str(Path(str(self.dirpath), BEST))
        if best is not None:
            self.best_model_score = self.kth_value = best
            self.best_model_path = self.kth_best_model_path = path
            self.best_k_models = {path: best}


class LastCheckpoint(ModelCheckpoint):
    """Keeps the newest checkpoint: of each epoch's end, of a time interval, and before a stop.

    No checkpoint is written between the last batch of an epoch and the end of its validation, because Lightning does
    not return to the validation of an epoch. A stop in validation therefore takes effect at the end of it.

    Parameters
    ----------
    folder : Path
    every : float, optional
        Seconds between two checkpoints within an epoch.
    stop : StopSignal
    after_epoch : callable
        Called with every epoch once its checkpoint is written; what it raises ends the run.
    history : RunHistory
    """

    def __init__(
        self,
        folder: Path,
        every: float | None,
        stop: StopSignal,
        history: RunHistory,
        after_epoch: Callable[[Epoch], None],
    ) -> None:
        interval = None if every is None else timedelta(seconds=every)
        options: dict[str, Any] = {"train_time_interval": interval, "save_on_train_epoch_end": True}
        super().__init__(folder, Path(LAST).stem, enable_version_counter=False, **options)
        self._path, self._stop, self._history, self._after_epoch = str(folder / LAST), stop, history, after_epoch
        self._stops = False

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the file is replaced whatever it was."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if the interval is over, or if a stop was requested."""
        if trainer.is_last_batch or trainer.should_stop:  # validation follows
            return
        if self._decide_to_stop(trainer):
            self._save_checkpoint(trainer, self._path)
        else:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, and report the epoch."""
        self._save_checkpoint(trainer, self._path)
        self._after_epoch(self._history.epochs[-1])
        self._decide_to_stop(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop, now that the log of the last batch is complete."""
        if self._stops:
            raise StopRequested

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop, now that the log of the last epoch is complete."""
        if self._stops:
            raise StopRequested

    def _decide_to_stop(self, trainer: Trainer) -> bool:
        self._stops = trainer.strategy.reduce_boolean_decision(self._stop.requested, all=False)
        return self._stops


class Interruption(Callback):
    """Stops a run before its first batch and in the final test; `LastCheckpoint` stops it in between.

    Parameters
    ----------
    stop : StopSignal
    """

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop here, or handle signals again: Lightning's handler of SIGTERM would end the program with status 0."""
        self._stop.install()
        self._raise_if_requested(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle signals again."""
        self._stop.install()

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop here."""
        self._raise_if_requested(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop here."""
        self._raise_if_requested(trainer)

    def _raise_if_requested(self, trainer: Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self._stop.requested, all=False):
            raise StopRequested


class EpochLines(Callback):
    """Prints one line for each epoch, for logs and pipes.

    Parameters
    ----------
    name : str
        Of the network.
    task : Task
    epochs : int
    history : RunHistory
    """

    def __init__(self, name: str, task: Task, epochs: int, history: RunHistory) -> None:
        self._name, self._task, self._epochs, self._history = name, task, epochs, history

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line."""
        if trainer.is_global_zero:
            epoch = self._history.epochs[-1]
            number = f"{epoch['epoch']:>{len(str(self._epochs))}}/{self._epochs}"
            metric = shown_metric(self._task, epoch["val_metric"])
            line = f"{self._name:<10} epoch {number}   loss {epoch['train_loss']:.4g}   val {metric}"
            print(f"{line}   {epoch['seconds']:.2f} s", flush=True)


def shown_metric(task: Task, value: float) -> str:
    """Return the metric's name and a value: an accuracy as a percentage, an error as it is."""
    return f"{task.metric_name} {value:.1%}" if task.higher_is_better else f"{task.metric_name} {value:.4g}"


def eigenvalues(module: SequenceModule) -> list[list[float]]:
    """Return the eigenvalues of the recurrent matrix as pairs; none of a matrix that takes long."""
    layer: Any = module.network.layer
    if layer.hidden_size > _LARGEST_SPECTRUM:
        return []
    return [[round(z.real, 6), round(z.imag, 6)] for z in spectrum(module.network).eigenvalues]
