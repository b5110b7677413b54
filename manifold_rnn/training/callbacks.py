"""The callbacks of a run: safe checkpoint files, the history, requests to stop, and printed lines."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from .. import diagnostics
from ..diagnostics.sources import has_recurrent_matrix
from ..errors import NonFiniteError
from .checkpoint import RUN, random_state, read_checkpoint, run_entry, set_random_state, write_checkpoint
from .environment import hardware, joined, scans_used, warn_of_changes
from .folder import BEST, LAST
from .module import SequenceModule
from .record import Epoch, shown_metric
from .settings import RunSettings
from .signals import StopRequested, StopSignal
from .values import Value, Values, say

Module = LightningModule
_LARGEST_SPECTRUM = 512


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning plugin that writes checkpoint files atomically, keeps the previous one, and checks each on reading.

    ``content`` is a checkpoint that was read and checked before. The trainer loads it instead of reading a file again.
    Files with a name in ``unusable`` are replaced without being kept as the previous checkpoint.
    """

    def __init__(self, content: Values | None = None, unusable: Sequence[str] = ()) -> None:
        self._content, self._unusable = content, {*unusable}

    def save_checkpoint(self, checkpoint: Values, path: str | Path, storage_options: object = None) -> None:
        write_checkpoint(Path(path), checkpoint, keep=Path(path).name not in self._unusable)
        self._unusable.discard(Path(path).name)

    def load_checkpoint(self, path: str | Path, map_location: object = None, weights_only: object = None) -> Values:
        content, self._content = self._content, None
        return read_checkpoint(Path(path)) if content is None else content


class RunHistory(Callback):
    """Stores the history and the random states of a run in its checkpoints, and ends the run after max_steps.

    ``epochs`` contains the finished epochs. ``batch`` of ``batches`` batches of the next epoch are finished, and took
    ``seconds``. ``spectrum_start`` has the eigenvalues before the first step. ``environment`` describes this process.
    ``earlier`` has the environments of earlier parts of the run. Raises `NonFiniteError` after an epoch with a score
    that is not finite, before its checkpoint is written.
    """

    def __init__(self, settings: RunSettings, environment: Values, earlier: Sequence[Values] = ()) -> None:
        self.settings, self.environment, self.earlier = settings, environment, earlier
        self.epochs: list[Epoch] = []
        self.seconds, self.batch, self.batches = 0.0, 0, 0
        self.spectrum_start: list[list[float]] = []
        self._started_at, self._first_batch = 0.0, ExitStack()
        self._random_state: Values | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Module, checkpoint: Values) -> None:
        state = {**self.progress, "seconds": self.seconds, "environments": self.environments}
        state |= {"spectrum_start": self.spectrum_start, "random": random_state()}
        checkpoint[RUN] = run_entry(self.settings, state)

    @property
    def progress(self) -> Values:
        """The finished epochs, and the finished batches of the next one."""
        return {"history": list(self.epochs), "batch": self.batch, "batches": self.batches}

    @property
    def environments(self) -> list[Values]:
        """The environments of all parts of the run."""
        return joined(self.earlier, self.environment)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Module, checkpoint: Values) -> None:
        if trainer.state.fn == TrainerFn.FITTING:  # not when the best network is tested
            state = checkpoint[RUN]
            self.epochs, self.seconds, self.batch = list(state["history"]), state["seconds"], state["batch"]
            self.spectrum_start, self._random_state = state["spectrum_start"], state["random"]

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        self.batches = int(trainer.num_training_batches)
        if trainer.global_step == 0:
            self.spectrum_start = eigenvalues(pl_module)
        self._started_at = time.perf_counter() - self.seconds
        early = trainer.early_stopping_callback
        if isinstance(early, EarlyStopping) and self.settings.patience is not None:
            early.patience = self.settings.patience  # it may differ from the checkpoint's
            trainer.should_stop = early.wait_count >= early.patience
        trainer.should_stop |= self._has_all_steps(trainer)
        if self._random_state is not None:
            set_random_state(self._random_state)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Module) -> None:
        self._started_at = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: Module, batch: object, batch_idx: int) -> None:
        if "scan" not in self.environment:
            self._scans = self._first_batch.enter_context(scans_used())

    def on_exception(self, trainer: Trainer, pl_module: Module, exception: BaseException) -> None:
        self._first_batch.close()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if "scan" not in self.environment:
            self._first_batch.close()
            measured = {"scan": ", ".join(sorted(self._scans)), "accelerator": hardware(pl_module.device)}
            self.environment |= measured
            if trainer.is_global_zero:
                warn_of_changes(self.earlier, measured)
        self.seconds, self.batch = time.perf_counter() - self._started_at, batch_idx + 1
        trainer.should_stop |= self._has_all_steps(trainer)  # Lightning then validates and ends the epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        assert isinstance(pl_module, SequenceModule)
        loss, metric = (float(trainer.callback_metrics[name]) for name in ("val_loss", "val_metric"))
        number, train_loss, seconds = len(self.epochs) + 1, pl_module.train_loss(), self.seconds
        epoch = Epoch(epoch=number, train_loss=train_loss, val_loss=loss, val_metric=metric, seconds=seconds)
        self.epochs.append(epoch)
        self.seconds, self.batch = 0.0, 0
        for name, value in epoch.items():
            if not math.isfinite(value):  # type: ignore[arg-type]  # all are numbers
                raise NonFiniteError(
                    f"A run needs finite scores.\nGot {name} = {value} in epoch {number}.\nLower the learning rate."
                )

    def _has_all_steps(self, trainer: Trainer) -> bool:
        return self.settings.max_steps is not None and trainer.global_step >= self.settings.max_steps


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint with the lowest validation loss. The folder may be moved before a run is resumed."""

    def __init__(self, folder: Path) -> None:
        options: Values = {"monitor": "val_loss", "save_on_train_epoch_end": True, "enable_version_counter": False}
        super().__init__(folder, Path(BEST).stem, **options)

    def state_dict(self) -> Values:
        return {"best": self.best_model_score}

    def load_state_dict(self, state_dict: Values) -> None:
        best, path = state_dict["best"], str(Path(str(self.dirpath), BEST))
        if best is not None:
            self.best_model_score = self.kth_value = best
            self.best_model_path = self.kth_best_model_path = path
            self.best_k_models = {path: best}


class StopInEvaluation(Callback):
    """Raises `StopRequested` after a request to stop, in a test or in a validation outside of training."""

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop

    def on_test_start(self, trainer: Trainer, *_: Value, **__: Value) -> None:
        """Stop if requested. All hooks below do the same."""
        if trainer.state.fn == TrainerFn.FITTING:
            return
        self._stop.install()  # again, because Lightning's own SIGTERM handler ends the program with status 0
        if trainer.strategy.reduce_boolean_decision(self._stop.requested, all=False):
            raise StopRequested

    on_test_batch_start = on_test_end = on_test_start
    on_validation_start = on_validation_batch_start = on_validation_end = on_test_start


class LastCheckpoint(ModelCheckpoint):
    """Keeps the newest checkpoint, and stops the run on request after it wrote one.

    A checkpoint is written at the end of each epoch, every ``checkpoint_every`` seconds within an epoch, and before a
    stop. None is written between the last batch of an epoch and the end of its validation, because Lightning cannot
    resume there. So a stop during validation takes effect at its end. ``after_epoch`` is called with every epoch after
    its checkpoint is written. An exception in it ends the run.
    """

    def __init__(
        self, folder: Path, history: RunHistory, stop: StopSignal, after_epoch: Callable[[Epoch], None]
    ) -> None:
        every = history.settings.checkpoint_every
        interval = None if every is None else timedelta(seconds=every)
        super().__init__(folder, Path(LAST).stem, train_time_interval=interval, enable_version_counter=False)
        self._path, self._stop, self._history, self._after_epoch = str(folder / LAST), stop, history, after_epoch
        self._stops = False

    def state_dict(self) -> Values:
        return {}

    def load_state_dict(self, state_dict: Values) -> None:
        pass  # nothing to restore: the file is replaced

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        super().on_train_start(trainer, pl_module)
        self._stop.install()  # again, because Lightning's own SIGTERM handler ends the program with status 0
        self._decide_to_stop(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Module) -> None:
        self._stop_if_decided()

    def on_train_batch_start(self, trainer: Trainer, pl_module: Module, batch: object, batch_idx: int) -> None:
        self._stop_if_decided()  # here, because the log of the last batch is complete

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: Value, batch: object, batch_idx: int
    ) -> None:
        if trainer.is_last_batch or trainer.should_stop:  # validation follows
            return
        self._decide_to_stop(trainer)
        if self._stops:
            self._save_checkpoint(trainer, self._path)
        else:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        self._save_checkpoint(trainer, self._path)
        self._after_epoch(self._history.epochs[-1])
        self._decide_to_stop(trainer)

    def _decide_to_stop(self, trainer: Trainer) -> None:
        self._stops = trainer.strategy.reduce_boolean_decision(self._stop.requested, all=False)

    def _stop_if_decided(self) -> None:
        if self._stops:
            raise StopRequested


class EpochLines(Callback):
    """Prints one line for each epoch, for logs and pipes."""

    def __init__(self, history: RunHistory) -> None:
        self._history = history

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        if trainer.is_global_zero:
            settings, epoch = self._history.settings, self._history.epochs[-1]
            name = settings.network.zoo or settings.network.cell or ""
            number = f"{epoch['epoch']:>{len(str(settings.epochs))}}/{settings.epochs}"
            scores = f"loss {epoch['train_loss']:.4g}   val {shown_metric(settings.task, epoch['val_metric'])}"
            say(f"{name:<10} epoch {number}   {scores}   {epoch['seconds']:.2f} s")


def eigenvalues(module: Value) -> list[list[float]]:
    """Return the eigenvalues of the recurrent matrix as pairs, or [] if it is missing or too large."""
    if not has_recurrent_matrix(module.network) or module.network.layer.hidden_size > _LARGEST_SPECTRUM:
        return []
    return [[round(z.real, 6), round(z.imag, 6)] for z in diagnostics.eigenvalues(module.network)]
