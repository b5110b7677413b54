"""One network trained and tested by Lightning, quietly, into one result."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from lightning.pytorch import Callback, Trainer
from torch import nn

from ..constraints import degrees_of_freedom
from ..errors import ManifoldError
from .data import SequenceData
from .inspection import recurrent_matrix, spectrum, worst_defect
from .module import SequenceModule
from .progress import Display, StopRequested, Watcher
from .report import Result


def fit(
    name: str,
    network: nn.Module,
    hidden_size: int,
    data: SequenceData,
    *,
    epochs: int,
    lr: float,
    show: Display,
    stop: Callable[[], bool],
) -> Result:
    """Train a network, test it, and return all that a report needs; a failure or a stop is noted in it."""
    result = Result(name, hidden_size, degrees_of_freedom(network), constrained=worst_defect(network) is not None)
    result.matrix, result.spectrum_start = recurrent_matrix(network)[0], spectrum(network)
    watcher = Watcher(show, stop)
    show.start(name, epochs, len(data.train_dataloader()))
    try:
        with quiet_trainer(epochs, watcher) as trainer:
            trainer.fit(SequenceModule(network, data.task, lr), datamodule=data)
    except StopRequested:
        result.failure = f"stopped after {len(watcher.history)} of {epochs} epochs"
    except ManifoldError as error:
        result.failure = " ".join(str(error).split())
    result.history = watcher.history
    if result.history:
        result.seconds_per_epoch = median(record.seconds for record in result.history)
        _measure(result, network, data)
    return result


@contextmanager
def quiet_trainer(epochs: int, *callbacks: Callback) -> Iterator[Trainer]:
    """Yield a trainer that writes no file and prints nothing; Lightning's notes and warnings are silenced meanwhile."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield Trainer(
                max_epochs=epochs,
                accelerator="cpu",
                devices=1,
                callbacks=list(callbacks),
                gradient_clip_val=1.0,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _measure(result: Result, network: nn.Module, data: SequenceData) -> None:
    try:
        with quiet_trainer(1) as trainer:
            scores = trainer.test(SequenceModule(network, data.task, lr=0.0), datamodule=data, verbose=False)[0]
        result.test_loss, result.test_accuracy = scores["test_loss"], scores["test_metric"]
        result.defect, result.spectrum_end = worst_defect(network), spectrum(network)
    except ManifoldError as error:
        result.failure = result.failure or " ".join(str(error).split())
