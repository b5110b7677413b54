"""One network trained and tested by Lightning, quietly, into one result."""

from collections.abc import Callable
from statistics import median

from torch import nn

from ..constraints import degrees_of_freedom
from ..errors import ManifoldError
from .data import SequenceData
from .inspection import recurrent_matrix, spectrum, worst_defect
from .module import SequenceModule
from .progress import Display, StopRequested, Watcher
from .report import Result
from .run_parts import OptimizerSettings, ScheduleSettings
from .trainer import quiet_trainer


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
    optimizer, schedule = OptimizerSettings("adam", lr), ScheduleSettings("cosine", warmup=0.1)
    spread = {"steps": epochs * data.batches, "steps_per_epoch": data.batches}
    module = SequenceModule(network, data.task, optimizer, schedule, **spread)
    show.start(name, data.task, epochs, data.batches)
    try:
        with quiet_trainer(epochs, watcher, gradient_clip_val=1.0) as trainer:
            trainer.fit(module, datamodule=data)
    except StopRequested:
        result.failure = f"stopped after {len(watcher.history)} of {epochs} epochs"
    except ManifoldError as error:
        result.failure = " ".join(str(error).split())
    result.history = watcher.history
    if result.history:
        result.seconds_per_epoch = median(record.seconds for record in result.history)
        _measure(result, module, data)
    return result


def _measure(result: Result, module: SequenceModule, data: SequenceData) -> None:
    try:
        with quiet_trainer(1) as trainer:
            scores = trainer.test(module, datamodule=data, verbose=False)[0]
        result.test_loss, result.test_accuracy = scores["test_loss"], scores["test_metric"]
        result.defect, result.spectrum_end = worst_defect(module.network), spectrum(module.network)
    except ManifoldError as error:
        result.failure = result.failure or " ".join(str(error).split())
