"""Runs one training from its settings: trains with Lightning, writes checkpoints, and tests the best one."""

import math
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, RichProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ..constraints import degrees_of_freedom
from ..diagnostics import constrained_parameters, defects, recurrent_matrix
from ..diagnostics.sources import has_recurrent_matrix
from ..errors import ManifoldError, NonFiniteError, OptionError
from ..zoo import Network
from .build import build_for_run, require_run_in_memory
from .callbacks import (
    BestCheckpoint,
    EpochLines,
    LastCheckpoint,
    RunHistory,
    SafeCheckpointIO,
    StopInEvaluation,
    eigenvalues,
)
from .checkpoint import RUN, best_checkpoint, load_weights, read_checkpoint, require_same_data, require_same_run, seeded
from .choices import require, require_choice, require_folder, require_path, require_task_name
from .data import SequenceData
from .environment import environment, warn_of_changes
from .folder import LOGS, RESULT, lock_folder, move_aside, open_folder, require_own
from .module import SequenceModule
from .record import Epoch, RunRecord, shown_progress, write_record
from .resuming import Start, prepare, require_settings, starting_point
from .settings import RunSettings
from .signals import StopRequested, StopSignal
from .trainer import (
    RunLog,
    build_trainer,
    lack_of_memory_named,
    own_process_group,
    process_rank,
    quiet_lightning,
    require_hardware,
)
from .values import Values, say


def run(
    settings: RunSettings,
    *,
    folder: str | Path,
    resume: bool = False,
    restart: bool = False,
    on_epoch: Callable[[Epoch], None] | None = None,
    stop: StopSignal | None = None,
    quiet: bool = True,
) -> RunRecord:
    """Train a network and test it.

    The run writes the settings to ``run.yaml`` in the folder, and logs for TensorBoard to ``logs``. It writes the
    checkpoints ``last.ckpt`` and ``best.ckpt``, and keeps the previous version of each. At the end it writes
    ``result.json``.

    Parameters
    ----------
    settings : RunSettings
        Settings of the run. A new run raises `OptionError` if they set an optimizer or a learning rate for constrained
        weights, but the network has no constrained weights.
    folder : str or Path
        Folder of the run, which replaces ``settings.output``. It is created if it does not exist.
    resume : bool
        Whether to resume from ``last.ckpt``. The result is that of an uninterrupted run. If there is no checkpoint, the
        run starts. If the file is damaged, the run resumes from the checkpoint before it, with a warning.
    restart : bool
        Whether to start again. The files of the previous run are moved into a subfolder ``attempt-1``, ``attempt-2``
        and so on.
    on_epoch : callable, optional
        Function that is called with each finished epoch after its checkpoint is written. An exception in it ends the
        run and is passed on.
    stop : StopSignal, optional
        Request to stop. Default: Ctrl-C and SIGTERM.
    quiet : bool
        Whether to print nothing. Otherwise a terminal shows a progress bar, and other outputs get one line per epoch.

    Returns
    -------
    RunRecord

    Raises
    ------
    OptionError
        If the settings do not fit together. If the folder cannot be written, contains other files, or already contains
        a run. If the checkpoints are damaged, belong to another run, or were trained on other data. No file of a run is
        changed in these cases.
    BlockingIOError
        If another process trains in the folder.
    MemoryError
        If there is not enough memory. Checkpoints stay unchanged.

    Warns
    -----
    UserWarning
        If a run resumes with another version, number of threads, scan or accelerator.

    Examples
    --------
    >>> import tempfile
    >>> values = {"task": {"name": "Copying", "delay": 5, "sizes": [64, 16, 16]}, "epochs": 1}
    >>> settings = mr.training.read_run({**values, "network": {"zoo": "scornn", "hidden_size": 8}})
    >>> with tempfile.TemporaryDirectory() as output:
    ...     record = mr.training.run(settings, folder=output)
    >>> assert len(record.history) == 1 and record.failure is None
    """
    place = require_folder("output", folder)
    require_task_name(type(settings.task))
    require(not (resume and restart), "restart", "a run that is not resumed", "`resume` as well")
    rank = process_rank(settings)
    with ExitStack() as stack:
        stack.enter_context(lack_of_memory_named())
        stack.enter_context(seeded(settings.seed))
        stop = stop or stack.enter_context(StopSignal())
        stack.enter_context(quiet_lightning())
        require_hardware(settings)
        if rank == 0:  # only one process checks the folder, because that process then writes to it
            require_own(place)
            require_settings(place)
        data = SequenceData(settings.task, settings.batch_size, settings.seed)
        data.require_sequences(settings.devices * settings.nodes)
        require_run_in_memory(settings, len(data.splits.train))
        module, current = _build_module(settings), environment(data.splits)
        for key in () if resume else ("constrained", "constrained_lr"):
            value = getattr(settings.optimizer, key)
            usable = value is None or bool(constrained_parameters(module.network))
            require(usable, f"optimizer.{key}", "a network with constrained weights", value)
        if rank == 0:  # it locks the folder before reading anything in it
            open_folder(place)
            stack.callback(lock_folder(place).release)
        reads = resume or (rank == 0 and not restart)
        start = starting_point(settings, place, resume, data, current) if reads else Start()
        if start.content is None:
            for method in settings.methods():
                method.start(module.network, *data.splits.train.tensors)
        else:
            # only to raise before anything is written, because the trainer loads the weights too
            load_weights(start.source, start.content, module)
        if rank == 0:  # the first changes of files, after all checks
            if restart:
                move_aside(place)
            open_folder(place / LOGS)
            prepare(settings, place)
            warn_of_changes(start.environments, current)
        if not quiet and resume:
            shown = None if start.content is None else shown_progress(start.content[RUN], settings.epochs)
            line = f"There is no checkpoint in '{place}'. The run starts from the beginning."
            say(line if shown is None else f"Resuming after {shown}.")
        stack.enter_context(own_process_group())
        history = RunHistory(settings, current, start.environments)
        # absolute, or Lightning could find another folder than this package
        return _train_and_test(settings, place.resolve(), start, data, module, history, stop, on_epoch, quiet)


def evaluate(
    settings: RunSettings, *, stage: str, checkpoint: str | Path, stop: StopSignal | None = None
) -> dict[str, float]:
    """Return the loss and the metric of a checkpoint.

    Parameters
    ----------
    settings : RunSettings
        Settings of the run that wrote the checkpoint.
    stage : "validate" or "test"
        Set to evaluate on: the validation set or the test set.
    checkpoint : str or Path
        File of the checkpoint. If it is damaged, the checkpoint before it is read, with a warning.
    stop : StopSignal, optional
        Request to stop, which raises `StopRequested`. Default: Ctrl-C and SIGTERM.

    Returns
    -------
    dict
        The scores, such as ``{"test_loss": 0.3, "test_metric": 0.9}``.

    Raises
    ------
    OptionError
        If the stage is unknown, or the checkpoint is damaged, belongs to another run, or was trained on other data.
    NonFiniteError
        If a score is not finite.

    Examples
    --------
    >>> settings = mr.training.read_run({"task": {"name": "Digits"}, "network": {"zoo": "lem"}})
    >>> try: mr.training.evaluate(settings, stage="test", checkpoint="missing.ckpt")
    ... except mr.errors.OptionError as error: assert "missing.ckpt" in str(error)
    """
    require_choice("stage", stage, ("validate", "test"))
    path = require_path("checkpoint", checkpoint)
    content = read_checkpoint(path)
    require_same_run(path, content, settings)
    settings = replace(settings, devices=1, nodes=1, strategy="auto")
    with ExitStack() as stack:
        stop = stop or stack.enter_context(StopSignal())
        for context in (lack_of_memory_named(), seeded(settings.seed), quiet_lightning()):
            stack.enter_context(context)
        data, module = SequenceData(settings.task, settings.batch_size, settings.seed), _build_module(settings)
        require_same_data(path, content, environment(data.splits))
        load_weights(path, content, module)
        trainer = build_trainer(settings, [StopInEvaluation(stop)])
        score = trainer.validate if stage == "validate" else trainer.test
        try:
            scores = dict(score(module, datamodule=data, verbose=False)[0])
        except SIGTERMException:  # from Lightning's handler, if the signal came before ours was installed again
            raise StopRequested from None
    for name, value in scores.items():
        if not math.isfinite(value):
            raise NonFiniteError(f"A network needs finite scores.\nGot {name} = {value}.\nUse another checkpoint.")
    return scores


def _train_and_test(
    settings: RunSettings,
    folder: Path,
    start: Start,
    data: SequenceData,
    module: SequenceModule,
    history: RunHistory,
    stop: StopSignal,
    on_epoch: Callable[[Epoch], None] | None,
    quiet: bool,
) -> RunRecord:
    last = LastCheckpoint(folder, history, stop, on_epoch or (lambda epoch: None))
    callbacks = [history, LearningRateMonitor("step"), BestCheckpoint(folder), last, StopInEvaluation(stop)]
    if settings.patience is not None:  # first, so that the checkpoint of the epoch contains its count
        callbacks.append(EarlyStopping("val_loss", patience=settings.patience, check_on_train_epoch_end=False))
    if not quiet:
        callbacks.append(RichProgressBar() if sys.stdout and sys.stdout.isatty() else EpochLines(history))
    purge = start.content["global_step"] if start.content else None
    logger = RunLog(folder / LOGS, "", "", default_hp_metric=False, purge_step=purge)
    files = SafeCheckpointIO(start.content, start.unusable)
    trainer = build_trainer(settings, callbacks, files, logger=logger, log_every_n_steps=settings.log_every)
    network: Network = module.network  # type: ignore[assignment]  # `_build_module` sets it
    size, parameters = network.layer.hidden_size, degrees_of_freedom(network)
    record = RunRecord(hidden_size=size, parameters=parameters, seed=settings.seed)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=str(start.source) if start.content else None)
        record.defect = defects(network).largest
        if has_recurrent_matrix(network):
            record.matrix, record.spectrum_end = recurrent_matrix(network).name, eigenvalues(module)
        if history.epochs:
            steps = trainer.global_step
            record.seconds_per_step = sum(epoch["seconds"] for epoch in history.epochs) / steps if steps else None
            load_weights(*best_checkpoint(folder, history.epochs), module)
            scores = trainer.test(module, datamodule=data, verbose=False)[0]
            record.test_loss, record.test_metric = scores["test_loss"], scores["test_metric"]
    except (StopRequested, SIGTERMException):  # the second: from Lightning's handler
        record.stopped = True
    except ManifoldError as error:
        if trainer.world_size > 1 or isinstance(error, OptionError):
            raise  # or the other processes would wait for this one forever
        record.failure = " ".join(str(error).split())
    record.history, record.spectrum_start = history.epochs, history.spectrum_start
    record.environments = history.environments
    if record.failure is None and record.not_finite:
        record.failure = f"A run needs finite numbers. Got {record.not_finite}."
    if trainer.is_global_zero and not record.stopped:
        try:
            write_record(folder / RESULT, record, stop)
        except StopRequested:
            record.stopped = True
    if record.stopped:
        record.failure = f"stopped after {shown_progress(history.progress, settings.epochs)}"
    return record


def _build_module(settings: RunSettings) -> SequenceModule:
    options: Values = {"max_steps": settings.max_steps, "methods": settings.methods()}
    return SequenceModule(build_for_run(settings), settings.task, settings.optimizer, settings.schedule, **options)
