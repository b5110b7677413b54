"""Where a run starts: at its first step, or at the newest usable checkpoint of its locked folder."""

import os
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import OptionError
from .checkpoint import (
    RUN,
    best_checkpoint,
    is_resumable,
    read_checkpoint,
    read_generation,
    require_same_data,
    require_same_run,
    run_entry,
)
from .data import SequenceData
from .folder import BEST, CONFIG, LAST, RESULT, previous, remove_temporary, replacing
from .formats import KEY, SETTINGS
from .mapping import as_mapping, read_run
from .record import read_record
from .settings import RunSettings
from .values import Values, dump_yaml, read_yaml


@dataclass(frozen=True)
class Start:
    """The checkpoint that a run resumes from, its file, and the names of the files that cannot be used.

    The content is None if the run starts at its first step.
    """

    content: Values | None = None
    source: Path = Path(LAST)
    unusable: tuple[str, ...] = ()

    @property
    def environments(self) -> list[Values]:
        """The environments of earlier parts of the run. Older checkpoints have none."""
        return [] if self.content is None else self.content[RUN].get("environments", [])


def starting_point(settings: RunSettings, folder: Path, resume: bool, data: SequenceData, current: Values) -> Start:
    """Return where a run starts. Raises `OptionError` if the folder does not allow it. Changes nothing."""
    last, best = folder / LAST, folder / BEST
    present = [path for path in (last, previous(last), best, folder / RESULT, folder / CONFIG) if path.exists()]
    if present and not resume:
        raise OptionError(
            f"'{folder}' already contains a run.\nExpected a folder without {present[0].name}.\nResume it "
            "with --resume, start again with --restart, which keeps the old files in a subfolder, or choose another "
            "`output`."
        )
    if not (last.exists() or previous(last).exists()):
        _require_nothing_trained(settings, folder)
        return Start(unusable=(BEST,))
    source, content, reason = read_generation(last)
    require_same_run(source, content, settings)
    require_same_data(source, content, current)
    steps, state = content["global_step"], content[RUN]
    per_epoch = len(data.training_batches(0, 0, settings.devices * settings.nodes))
    ended_within = steps < len(state["history"]) * per_epoch + state["batch"]
    if ended_within and (settings.max_steps is None or settings.max_steps > steps):
        raise OptionError(
            f"'{source}' ended within an epoch, so the rest of it cannot be trained.\n"
            f"Expected max_steps={steps}, got {settings.max_steps}.\n"
            "Start again with --restart, or in another `output`."
        )
    unusable = [LAST] if reason else []
    if not state["history"] or best_checkpoint(folder, state["history"])[0] != best:
        unusable.append(BEST)
    if reason:
        warnings.warn(f"'{last}' {reason}. The run resumes from the checkpoint before it, {source.name}.", stacklevel=2)
    return Start(content, source, tuple(unusable))


def prepare(settings: RunSettings, folder: Path) -> None:
    """Write the settings of a run that starts or resumes. An old result becomes the previous one."""
    remove_temporary(folder)
    with replacing(folder / CONFIG) as temporary:
        mapping = {KEY: SETTINGS.current, **as_mapping(settings), "output": str(folder)}
        temporary.write_text(dump_yaml(mapping), encoding="utf-8")
    if (folder / RESULT).exists():  # after the write, which may fail
        os.replace(folder / RESULT, previous(folder / RESULT))


def require_settings(folder: Path) -> None:
    """Raise `OptionError` if the settings file in a folder is not that of a run.

    If a checkpoint exists, a damaged settings file only gives a warning, because the checkpoint contains the settings
    too.
    """
    path = folder / CONFIG
    try:
        if path.exists():
            read_run(path)
    except OptionError as error:
        if not _is_newer(path) and any(_is_checkpoint(folder / name) for name in (LAST, BEST)):
            warnings.warn(f"'{path}' is damaged. It will be written again when the run starts.", stacklevel=2)
            return
        reason = f"{str(error)[:200].rstrip('.')}.\nMove it away, or choose another `output`."
        raise OptionError(f"'{path}' needs to hold the settings of a run. Got: {reason}") from error


def _is_newer(path: Path) -> bool:
    """Whether a settings file has another format number. Then it is not damaged."""
    with suppress(OptionError):
        return bool(read_yaml(path).get(KEY, SETTINGS.current) != SETTINGS.current)
    return False


def _is_checkpoint(path: Path) -> bool:
    with suppress(OptionError):
        return bool(read_generation(path)[1])
    return False


def _require_nothing_trained(settings: RunSettings, folder: Path) -> None:
    """Raise `OptionError` if a folder has no last checkpoint, but files of a run that had one."""
    reason = ""
    if (folder / RESULT).exists() and read_record(folder / RESULT).failure is None:
        reason = f"next to {RESULT}"
    elif (folder / BEST).exists():
        content = read_checkpoint(folder / BEST)
        if len(content[RUN]["history"]) > 1 or not is_resumable(content):  # the second: a pruned network
            reason = f"next to {BEST}"  # written first, at the end of the first epoch
    if reason:
        raise OptionError(
            f"'{folder}' has no {LAST}.\nExpected it {reason}.\nRestore it, or start again with --restart."
        )
    if (folder / CONFIG).exists():
        content = {RUN: run_entry(read_run(folder / CONFIG), {})}
        require_same_run(folder / CONFIG, content, settings)
