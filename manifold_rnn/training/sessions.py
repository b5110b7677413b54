"""A run that is ready to train, and what is left of it."""

import signal
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from ..constraints import degrees_of_freedom
from ..errors import ManifoldError, OptionError
from .building import build_network
from .checkpoints import BEST, LAST, load_network, read_checkpoint, require_same_run
from .data import SequenceData
from .files import clear_temporaries, occupy, open_folder, replacing
from .inspection import worst_defect
from .keeping import Keeper
from .logs import Scalars
from .module import SequenceModule
from .processes import leaving_together, processes
from .progress import Display, StopRequested, Watcher
from .report import EpochRecord, write_json
from .run_settings import RunSettings, as_mapping
from .trainer import quiet_trainer

CONFIG, RESULT, LOGS = "run.yaml", "result.json", "logs"


@dataclass
class RunRecord:
    """What a run led to.

    Attributes
    ----------
    history : list of dict
        Of every epoch: ``epoch``, ``train_loss``, ``val_loss``, ``val_metric``, and ``seconds`` of its training.
    test_loss, test_metric : float or None
        Of the network with the lowest validation loss.
    parameters : int
        Trained degrees of freedom.
    seconds_per_step : float or None
        Mean over all training steps.
    defect : float or None
        Of the network after the last step: how far its constrained weights are off; None if there are none.
    failure : str or None
        Why training ended early, if it did.
    stopped : bool
        Whether somebody asked for that.

    Examples
    --------
    >>> assert mr.training.RunRecord(parameters=3).history == []
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    test_loss: float | None = None
    test_metric: float | None = None
    parameters: int = 0
    seconds_per_step: float | None = None
    defect: float | None = None
    failure: str | None = None
    stopped: bool = False


class Session:
    """A run that is ready to train: everything is built and checked, and the folder is open."""

    def __init__(self, settings: RunSettings, folder: Path, *, resume: bool, stop: Callable[[], bool]) -> None:
        self.settings, self.folder, self.stop = settings, folder, stop
        rank, world = processes(settings)
        _require_hardware(settings)
        self.release = occupy(folder, self) if rank == 0 and resume and folder.is_dir() else None
        self.content = content = _begin(settings, folder, resume) if rank == 0 or resume else None
        where = content["position"] if content else {}
        start = {key: where.get(key, 0) for key in ("epoch", "batch")}
        options = {**start, "max_steps": settings.max_steps, "rank": rank, "world": world}
        self.data = SequenceData(settings.task, settings.batch_size, settings.seed, **options)
        self.module = build_module(settings, self.data)
        if content:
            _require_whole_epochs(folder / LAST, content, settings, self.data.batches)
            load_network(folder / LAST, content, self.module.network)
        self.steps = content["position"]["step"] if content else 0
        self.history = [EpochRecord(**record) for record in content["history"]] if content else []
        if rank == 0:
            open_folder(folder)
            self.release = self.release or occupy(folder, self)
            _open(settings, folder)

    def train(self, show: Display, on_epoch: Callable[[int, dict[str, float]], None] | None) -> RunRecord:
        """Train, test, and write the result; then the folder is free for others."""
        try:
            with leaving_together():
                return self._trained(show, on_epoch)
        finally:
            if self.release is not None:
                self.release()

    def _trained(self, show: Display, on_epoch: Callable[[int, dict[str, float]], None] | None) -> RunRecord:
        settings, content = self.settings, self.content
        epochs = self.data.epochs_of(settings.epochs)
        show.start(settings.network.zoo or settings.network.cell or "", settings.task, epochs, self.data.batches)
        record = RunRecord(parameters=degrees_of_freedom(self.module.network))
        left = epochs - (content["position"]["epoch"] if content else 0)
        if left > 0 and not self._has_lost_patience():
            watcher = Watcher(show, lambda: False, self.history, content["seconds"] if content else 0.0)
            termination = _Termination()
            stop = lambda: self.stop() or termination.requested.is_set()  # noqa: E731
            keeper = Keeper(self.folder, settings, watcher, stop, content)
            scalars = Scalars(self.folder / LOGS, settings.log_every, keeper, watcher)
            report = [] if on_epoch is None else [_OnEpoch(on_epoch, watcher)]
            self._fit(record, left, [termination, watcher, *_patience(settings), keeper, scalars, *report])
        return self._finished(record)

    def _fit(self, record: RunRecord, epochs: int, callbacks: list[Callback]) -> None:
        options = {"gradient_clip_val": self.settings.clip, **_hardware(self.settings)}
        try:
            with quiet_trainer(epochs, *callbacks, **options) as trainer:
                try:
                    trainer.fit(self.module, datamodule=self.data)
                finally:
                    self.steps += trainer.global_step
        except StopRequested:
            record.stopped, record.failure = True, f"stopped after {len(self.history)} of {self.settings.epochs} epochs"
        except ManifoldError as error:
            if self.data.world > 1:
                raise  # or the other processes would wait for this one
            record.failure = " ".join(str(error).split())

    def _has_lost_patience(self) -> bool:
        early = self.content and self.content["early_stopping"]
        return bool(early and self.settings.patience and early["wait_count"] >= self.settings.patience)

    def _finished(self, record: RunRecord) -> RunRecord:
        record.history = [asdict(epoch) for epoch in self.history]
        record.defect = worst_defect(self.module.network)
        if self.history and self.steps:
            record.seconds_per_step = sum(epoch.seconds for epoch in self.history) / self.steps
        best = self.folder / BEST
        if self.history and not record.stopped and best.exists():
            load_network(best, read_checkpoint(best), self.module.network)
            scores = scores_of(self.settings, self.module, self.data, "test")
            record.test_loss, record.test_metric = scores["test_loss"], scores["test_metric"]
        if self.data.rank == 0:
            write_json(self.folder / RESULT, asdict(record))
        return record


class _Termination(Callback):
    """Turns SIGTERM into a request, as Ctrl-C is one: Lightning would leave without a word and with status 0."""

    def __init__(self) -> None:
        self.requested = threading.Event()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():  # Lightning puts back the old handler at the end
            signal.signal(signal.SIGTERM, lambda number, frame: self.requested.set())


class _OnEpoch(Callback):
    def __init__(self, call: Callable[[int, dict[str, float]], None], watcher: Watcher) -> None:
        self._call, self._watcher = call, watcher

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        scores = asdict(self._watcher.history[-1])
        self._call(scores.pop("epoch"), scores)


def build_module(settings: RunSettings, data: SequenceData) -> SequenceModule:
    """Return the network of a run, with its task and its optimizer."""
    task = settings.task
    network = build_network(settings.network, task.input_size, task.output_size, dtype=dtype_of(settings))
    steps = data.steps_of(settings.epochs)
    spread = {"steps": steps, "steps_per_epoch": data.batches}
    return SequenceModule(network, task, settings.optimizer, settings.schedule, **spread)


def go_on(folder: str | Path) -> str:
    """Return the command by which a run goes on, wherever its folder was moved to."""
    where = quote(str(folder))
    return f"manifold-rnn fit --config {quote(f'{folder}/run.yaml')} --output {where} --resume"


def dtype_of(settings: RunSettings) -> torch.dtype:
    """Return the real dtype of the weights."""
    return torch.float64 if settings.precision == "float64" else torch.float32


def scores_of(settings: RunSettings, module: SequenceModule, data: SequenceData, stage: str) -> dict[str, float]:
    """Return loss and metric on the validation or the test set."""
    with quiet_trainer(1, **_hardware(settings)) as trainer:
        call = trainer.validate if stage == "validate" else trainer.test
        return dict(call(module, datamodule=data, verbose=False)[0])


def _hardware(settings: RunSettings) -> dict[str, Any]:
    many = settings.devices * settings.nodes > 1
    return {
        "accelerator": settings.accelerator,
        "devices": settings.devices,
        "num_nodes": settings.nodes,
        "strategy": "ddp" if many else settings.strategy,
        "precision": "bf16-mixed" if settings.precision == "bfloat16" else "32-true",  # the module converts by itself
    }


def _patience(settings: RunSettings) -> list[Callback]:
    if settings.patience is None:
        return []
    # it has to count before the checkpoint of the epoch is written
    return [EarlyStopping("val_loss", patience=settings.patience, check_on_train_epoch_end=False)]


def _begin(settings: RunSettings, folder: Path, resume: bool) -> dict[str, Any] | None:
    """The checkpoint to go on from, if there is one."""
    last = folder / LAST
    if not resume:
        found = [name for name in (LAST, BEST, CONFIG) if (folder / name).exists()]
        if found:
            raise OptionError(
                f"'{folder}' has a run already.\nExpected a folder without {found[0]}.\n"
                "Go on with --resume, or choose another --output."
            )
        return None
    if not last.exists():  # a run may be killed before its first checkpoint, but not lose one
        for name in (BEST, RESULT):
            if (folder / name).exists():
                raise OptionError(
                    f"'{folder}' has lost its {LAST}.\nExpected it beside {name}, which would be overwritten.\n"
                    "Begin anew in another --output."
                )
        return None
    content = read_checkpoint(last)
    require_same_run(last, content, settings)
    return content


def _require_whole_epochs(path: Path, content: dict[str, Any], settings: RunSettings, batches: int) -> None:
    """Raise `OptionError` if more steps are asked for than those after which a run ended inside an epoch."""
    where = content["position"]
    cut = where["step"] < where["epoch"] * batches + where["batch"]
    if cut and (settings.max_steps is None or settings.max_steps > where["step"]):
        raise OptionError(
            f"'{path}' has ended inside an epoch, whose rest cannot be trained by itself.\n"
            f"Expected max_steps={where['step']}, got {settings.max_steps}.\nBegin anew in another --output."
        )


def _require_hardware(settings: RunSettings) -> None:
    """Raise `OptionError` if the accelerator is not there."""
    try:
        with quiet_trainer(1, **_hardware(settings)):
            pass
    except (MisconfigurationException, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise OptionError(
            f"accelerator needs one that this machine has. Got {settings.accelerator}: {reason}"
        ) from error


def _open(settings: RunSettings, folder: Path) -> None:
    for name in (LAST, BEST, CONFIG, RESULT):
        clear_temporaries(folder, name)
    mapping = {**as_mapping(settings), "output": str(folder)}
    with replacing(folder / CONFIG, durable=True) as temporary:
        temporary.write_text(yaml.safe_dump(mapping, sort_keys=False), encoding="utf-8")
