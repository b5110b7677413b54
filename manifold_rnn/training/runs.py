"""One training run from its settings: trained by Lightning, kept in checkpoints, tested at its best."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
import yaml  # type: ignore[import-untyped]
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from ..constraints import degrees_of_freedom
from ..diagnostics import constrained_parameters, defects, recurrent_matrix
from ..errors import ManifoldError, OptionError
from ..zoo import Network
from .build import build_network, require_run_in_memory
from .callbacks import BestCheckpoint, EpochLines, LastCheckpoint, RunHistory, eigenvalues
from .checkpoint import BEST, LAST, RUN, load_weights, read_checkpoint, require_same_run, seeded
from .choices import require
from .data import SequenceData
from .folder import CONFIG, lock_folder, open_folder, replacing
from .mapping import as_mapping
from .module import SequenceModule
from .record import Epoch, RunRecord, write_json
from .settings import RunSettings
from .signals import StopRequested, StopSignal
from .trainer import build_trainer, own_process_group, process_rank, quiet_lightning, require_hardware
from .values import Values

RESULT, LOGS = "result.json", "logs"


def run(
    settings: RunSettings,
    *,
    folder: str | Path,
    resume: bool = False,
    on_epoch: Callable[[Epoch], None] | None = None,
    stop: StopSignal | None = None,
    quiet: bool = True,
) -> RunRecord:
    """Train a network and test it.

    The folder gets ``run.yaml`` with the settings, ``last.ckpt`` and ``best.ckpt``, ``logs`` for TensorBoard, and
    ``result.json`` at the end.

    Parameters
    ----------
    settings : RunSettings
        A run that starts is refused if they have an optimizer or a learning rate for constrained weights, and the
        network has none.
    folder : str or Path
        Replaces ``settings.output``; made if missing.
    resume : bool
        Resume from ``last.ckpt``, as if there had been no break; start if there is none.
    on_epoch : callable, optional
        Called with each finished epoch, once its checkpoint is written; what it raises ends the run and is passed on.
    stop : StopSignal, optional
        A request to stop that the caller handles. Default: Ctrl-C and SIGTERM.
    quiet : bool
        Whether to print nothing, or a progress bar on a terminal and one line for each epoch elsewhere.

    Returns
    -------
    RunRecord

    Raises
    ------
    OptionError
        If the settings do not fit together, the folder cannot be written or has a run already, or the checkpoint is
        damaged or from another run. Nothing has been written then.
    BlockingIOError
        If another process trains in the folder.

    Examples
    --------
    >>> import tempfile
    >>> values = {"task": {"name": "Copying", "delay": 5, "sizes": [64, 16, 16]}, "epochs": 1}
    >>> settings = mr.training.read_run({**values, "network": {"zoo": "scornn", "hidden_size": 8}})
    >>> with tempfile.TemporaryDirectory() as output:
    ...     record = mr.training.run(settings, folder=output)
    >>> assert len(record.history) == 1 and record.failure is None
    """
    place = Path(folder)
    rank = process_rank(settings)
    with ExitStack() as stack:
        stack.enter_context(seeded(settings.seed))
        stop = stop or stack.enter_context(StopSignal())
        stack.enter_context(quiet_lightning())
        require_hardware(settings)
        is_locked = rank == 0 and resume and place.is_dir()
        if is_locked:
            stack.callback(lock_folder(place).release)
        data = SequenceData(settings.task, settings.batch_size, settings.seed)
        data.require_sequences(settings.devices * settings.nodes)
        content = _checkpoint_to_resume(settings, place, resume, data) if rank == 0 or resume else None
        require_run_in_memory(settings, len(data.splits.train))
        module = _build_module(settings)
        if content is not None:
            load_weights(place / LAST, content, module)  # before anything is written; the trainer loads them again
        for key in () if resume else ("constrained", "constrained_lr"):
            value = getattr(settings.optimizer, key)
            usable = value is None or bool(constrained_parameters(module.network))
            require(usable, f"optimizer.{key}", "a network with constrained weights", value)
        if rank == 0:
            open_folder(place)
            if not is_locked:
                stack.callback(lock_folder(place).release)
            for left in place.glob(".*.tmp"):  # by processes that were killed
                left.unlink(missing_ok=True)
            with replacing(place / CONFIG, durable=True) as temporary:
                mapping = {**as_mapping(settings), "output": str(place)}
                temporary.write_text(yaml.safe_dump(mapping, sort_keys=False), encoding="utf-8")
        if not quiet and resume and content is None:
            print(f"There is no checkpoint in '{place}' yet: the run starts.")
        stack.enter_context(own_process_group())
        return _train_and_test(settings, place, content, data, module, stop, on_epoch, quiet)


def evaluate(settings: RunSettings, *, stage: str, checkpoint: str | Path) -> dict[str, float]:
    """Return loss and metric of a checkpoint.

    Parameters
    ----------
    settings : RunSettings
        Of the run that wrote it.
    stage : "validate" or "test"
    checkpoint : str or Path

    Returns
    -------
    dict
        Such as ``{"test_loss": 0.3, "test_metric": 0.9}``.

    Raises
    ------
    OptionError
        If the checkpoint is damaged or from another run.

    Examples
    --------
    >>> settings = mr.training.read_run({"task": {"name": "Digits"}, "network": {"zoo": "lem"}})
    >>> try: mr.training.evaluate(settings, stage="test", checkpoint="missing.ckpt")
    ... except mr.errors.OptionError as error: assert "missing.ckpt" in str(error)
    """
    path = Path(checkpoint)
    content = read_checkpoint(path)
    require_same_run(path, content, settings)
    settings = replace(settings, devices=1, nodes=1, strategy="auto")
    with seeded(settings.seed), quiet_lightning():
        data, module = SequenceData(settings.task, settings.batch_size, settings.seed), _build_module(settings)
        load_weights(path, content, module)
        trainer = build_trainer(settings)
        score = trainer.validate if stage == "validate" else trainer.test
        return dict(score(module, datamodule=data, verbose=False)[0])


def _train_and_test(
    settings: RunSettings,
    folder: Path,
    content: Values | None,
    data: SequenceData,
    module: SequenceModule,
    stop: StopSignal,
    on_epoch: Callable[[Epoch], None] | None,
    quiet: bool,
) -> RunRecord:
    history = RunHistory(settings)
    last = LastCheckpoint(folder, history, stop, on_epoch or (lambda epoch: None))
    callbacks = [history, LearningRateMonitor("step"), BestCheckpoint(folder), last]
    if settings.patience is not None:  # it counts before the checkpoint of the epoch is written
        callbacks.append(EarlyStopping("val_loss", patience=settings.patience, check_on_train_epoch_end=False))
    if not quiet:
        callbacks.append(RichProgressBar() if sys.stdout.isatty() else EpochLines(history))
    purge = content["global_step"] if content else None
    logger = TensorBoardLogger(folder, LOGS, "", default_hp_metric=False, purge_step=purge)
    trainer = build_trainer(settings, callbacks=callbacks, logger=logger, log_every_n_steps=settings.log_every)
    network: Network = module.network  # type: ignore[assignment]  # as `_build_module` made it
    size, parameters = network.layer.hidden_size, degrees_of_freedom(network)
    record = RunRecord(hidden_size=size, parameters=parameters, seed=settings.seed)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=None if content is None else str(folder / LAST))
        record.defect = defects(network).largest
        record.matrix, record.spectrum_end = recurrent_matrix(network).name, eigenvalues(module)
        if history.epochs and (folder / BEST).exists():
            steps = trainer.global_step
            record.seconds_per_step = sum(epoch["seconds"] for epoch in history.epochs) / steps if steps else None
            scores = trainer.test(module, datamodule=data, ckpt_path=str(folder / BEST), verbose=False)[0]
            record.test_loss, record.test_metric = scores["test_loss"], scores["test_metric"]
    except StopRequested:
        record.stopped, record.failure = True, f"stopped after {len(history.epochs)} of {settings.epochs} epochs"
    except ManifoldError as error:
        if trainer.world_size > 1 or isinstance(error, OptionError):
            raise  # or the other processes would wait for this one
        record.failure = " ".join(str(error).split())
    record.history, record.spectrum_start = history.epochs, history.spectrum_start
    if trainer.is_global_zero and not record.stopped:
        write_json(folder / RESULT, record.as_dict())
    return record


def _build_module(settings: RunSettings) -> SequenceModule:
    task = settings.task
    dtype = torch.float64 if settings.precision == "float64" else torch.float32
    network = build_network(settings.network, task.input_size, task.output_size, dtype=dtype)
    return SequenceModule(network, task, settings.optimizer, settings.schedule, max_steps=settings.max_steps)


def _checkpoint_to_resume(settings: RunSettings, folder: Path, resume: bool, data: SequenceData) -> Values | None:
    """The content of ``last.ckpt``; None if the run starts."""
    last = folder / LAST
    present = [name for name in (LAST, BEST, RESULT if resume else CONFIG) if (folder / name).exists()]
    if present and not resume:
        raise OptionError(
            f"'{folder}' has a run already.\nExpected a folder without {present[0]}.\n"
            "Resume it with --resume, or choose another `output`."
        )
    if present and present[0] != LAST:  # a run may be killed before its first checkpoint, but it never loses one
        raise OptionError(
            f"'{folder}' has no {LAST}.\nExpected it beside {present[0]}, which would be overwritten.\n"
            "Start again in another `output`."
        )
    if not present:
        return None
    content = read_checkpoint(last)
    require_same_run(last, content, settings)
    steps, state = content["global_step"], content[RUN]
    per_epoch = len(data.training_batches(0, 0, settings.devices * settings.nodes))
    ended_within = steps < len(state["history"]) * per_epoch + state["batch"]
    if ended_within and (settings.max_steps is None or settings.max_steps > steps):
        raise OptionError(
            f"'{last}' ended within an epoch, whose rest cannot be trained.\n"
            f"Expected max_steps={steps}, got {settings.max_steps}.\nStart again in another `output`."
        )
    return content
