"""One training run from its settings: trained by Lightning, kept in checkpoints, tested at its best."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from .checkpoints import load_network, read_checkpoint, require_same_run
from .data import SequenceData
from .progress import Display, SilentDisplay, display, stop_on_interrupt
from .randomness import seeded
from .run_settings import RunSettings
from .sessions import RunRecord, Session, build_module, scores_of


def run(
    settings: RunSettings,
    *,
    folder: str | Path,
    resume: bool = False,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
    quiet: bool = True,
) -> RunRecord:
    """Train a network and test it.

    The folder gets ``run.yaml`` with the settings, ``last.ckpt`` and ``best.ckpt``, ``logs`` for TensorBoard, and at
    the end ``result.json``.

    Parameters
    ----------
    settings : RunSettings
    folder : str or Path
        Takes the place of ``settings.output``; made if missing.
    resume : bool
        Go on from ``last.ckpt``, as if there had been no break; begin if there is none.
    on_epoch : callable, optional
        Called with the number of each finished epoch, from 1, and its scores; what it raises ends the run and is passed
        on.
    quiet : bool
        Whether to print nothing, or a bar on a terminal and one line an epoch elsewhere.

    Returns
    -------
    RunRecord

    Raises
    ------
    OptionError
        If the settings don't fit together, the folder can't be written or has a run already, or the checkpoint is
        damaged or of another run. Nothing has been written then.

    Examples
    --------
    >>> import tempfile
    >>> values = {"task": {"name": "copying", "delay": 5, "sizes": [64, 16, 16]}, "epochs": 1}
    >>> settings = mr.training.read_run({**values, "network": {"zoo": "scornn", "hidden_size": 8}})
    >>> with tempfile.TemporaryDirectory() as output:
    ...     record = mr.training.run(settings, folder=output)
    >>> assert len(record.history) == 1 and record.failure is None
    """
    with seeded(settings.seed), stop_on_interrupt(Console(stderr=True)) as stop:
        session = Session(settings, Path(folder), resume=resume, stop=stop)
        if resume and not quiet and session.content is None:
            print(f"There is no checkpoint in '{folder}' yet: the run begins.")
        with display(Console()) if not quiet else _silent() as show:
            return session.train(show, on_epoch)


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
        If the checkpoint is damaged or of another run.

    Examples
    --------
    >>> settings = mr.training.read_run({"task": {"name": "digits"}, "network": {"zoo": "lem"}})
    >>> try: mr.training.evaluate(settings, stage="test", checkpoint="missing.ckpt")
    ... except mr.errors.OptionError as error: assert "missing.ckpt" in str(error)
    """
    content = read_checkpoint(Path(checkpoint))
    require_same_run(Path(checkpoint), content, settings)
    settings = replace(settings, devices=1, nodes=1, strategy="auto")
    with seeded(settings.seed):
        data = SequenceData(settings.task, settings.batch_size, settings.seed)
        module = build_module(settings, data)
        load_network(Path(checkpoint), content, module.network)
        return scores_of(settings, module, data, stage)


@contextmanager
def _silent() -> Iterator[Display]:
    yield SilentDisplay()
