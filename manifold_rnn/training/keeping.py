"""When checkpoints are written, and how a trainer goes on from one."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from .. import __version__
from .checkpoints import BEST, FORMAT, LAST, write_checkpoint
from .module import SequenceModule
from .progress import StopRequested, Watcher
from .randomness import random_state, set_random_state
from .run_settings import RunSettings, as_mapping


@dataclass
class Position:
    """How far a run is: epochs that are over, batches of the next one that are, and steps in all."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


class Keeper(Callback):
    """Writes checkpoints at the end of every epoch, between batches from time to time, and before a stop.

    Parameters
    ----------
    folder : Path
        For ``last.ckpt`` and ``best.ckpt``, of the lowest validation loss.
    settings : RunSettings
    watcher : Watcher
        Whose history is kept.
    stop : callable
        Whether the run is about to be stopped.
    content : mapping, optional
        The checkpoint from which the run goes on.
    """

    def __init__(
        self,
        folder: Path,
        settings: RunSettings,
        watcher: Watcher,
        stop: Callable[[], bool],
        content: Mapping[str, Any] | None = None,
    ) -> None:
        self._folder, self._settings, self._watcher, self._stop = folder, settings, watcher, stop
        self._content = content
        self.start = Position(**content["position"]) if content else Position()
        self.best: float | None = content["best"] if content else None
        self._saved = time.monotonic()

    def position(self, trainer: Trainer, batch: int) -> Position:
        """Where the run is when the trainer is at this batch of its epoch."""
        skipped = self.start.batch if trainer.current_epoch == 0 else 0
        step = self.start.step + trainer.global_step
        return Position(self.start.epoch + trainer.current_epoch, skipped + batch, step)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over from the checkpoint, or write the first one."""
        module: Any = pl_module
        if self._content is None:
            self._save(LAST, trainer, module, Position())
        else:
            self._restore(self._content, trainer, module)
            self._content = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save if it is time, or the last chance."""
        every, passed = self._settings.checkpoint_every, time.monotonic() - self._saved
        stop = self._stop()
        due = stop or (every is not None and passed >= every)
        if trainer.world_size > 1:
            due, stop = trainer.strategy.broadcast((due, stop))
        if due:
            module: Any = pl_module
            self._save(LAST, trainer, module, self.position(trainer, batch_idx))
        if stop:
            raise StopRequested

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; a better network than all before also as the best."""
        module: Any = pl_module
        loss = self._watcher.history[-1].val_loss
        where = Position(self.position(trainer, 0).epoch + 1, 0, self.start.step + trainer.global_step)
        better = self.best is None or loss < self.best or math.isnan(self.best)
        self.best = loss if better else self.best
        for name in (BEST, LAST) if better else (LAST,):
            self._save(name, trainer, module, where)

    def _save(self, name: str, trainer: Trainer, module: SequenceModule, position: Position) -> None:
        losses, streams = module.losses(), module.state
        if trainer.world_size > 1 and streams is not None:
            streams = module.all_gather(streams)
        if trainer.is_global_zero:
            write_checkpoint(self._folder / name, self._content_of(trainer, module, position, losses, streams))
        trainer.strategy.barrier()
        self._saved = time.monotonic()

    def _content_of(
        self, trainer: Trainer, module: SequenceModule, position: Position, losses: torch.Tensor, streams: Any
    ) -> dict[str, Any]:
        early = _early_stopping(trainer)
        return {
            "format": FORMAT,
            "version": __version__,
            "settings": as_mapping(self._settings),
            "position": asdict(position),
            "network": module.network.state_dict(),
            "optimizer": trainer.optimizers[0].state_dict(),
            "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
            "random": random_state(),
            "losses": losses,
            "stream": streams,
            "seconds": self._watcher.seconds,
            "history": [asdict(record) for record in self._watcher.history],
            "best": self.best,
            "early_stopping": None if early is None else early.state_dict(),
        }

    def _restore(self, content: Mapping[str, Any], trainer: Trainer, module: SequenceModule) -> None:
        trainer.optimizers[0].load_state_dict(content["optimizer"])
        trainer.lr_scheduler_configs[0].scheduler.load_state_dict(content["schedule"])
        if (early := _early_stopping(trainer)) is not None and content["early_stopping"] is not None:
            early.load_state_dict({**content["early_stopping"], "patience": early.patience})
        stream = content["stream"]
        if stream is not None and trainer.world_size > 1:
            rank, many = trainer.global_rank, isinstance(stream, (tuple, list))
            stream = tuple(part[rank] for part in stream) if many else stream[rank]
        module.state = _moved(stream, module.device)
        if trainer.is_global_zero:
            module.loss_sum, module.loss_count = (part.clone() for part in content["losses"])
        module.inside_epoch = self.start.batch > 0
        set_random_state(content["random"])


def _early_stopping(trainer: Trainer) -> EarlyStopping | None:
    found: Any = trainer.early_stopping_callback
    return found if isinstance(found, EarlyStopping) else None


def _moved(state: Any, device: torch.device) -> Any:
    if isinstance(state, (tuple, list)):
        return tuple(part.to(device) for part in state)
    return None if state is None else state.to(device)
