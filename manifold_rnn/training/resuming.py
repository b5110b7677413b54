"""What a run starts from: nothing, or the newest usable checkpoints of its folder, which is locked."""

import os
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import OptionError
from .checkpoint import (
    RUN,
    best_checkpoint,
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
    """The checkpoint that a run resumes from, the file it was read from, and files that are of no use.

    The content is None if the run starts at its first step.
    """

    content: Values | None = None
    source: Path = Path(LAST)
    unusable: tuple[Path, ...] = ()

    @property
    def environments(self) -> list[Values]:
        """Those of the parts of the run before; older checkpoints hold none."""
        return [] if self.content is None else self.content[RUN].get("environments", [])


def starting_point(settings: RunSettings, folder: Path, resume: bool, data: SequenceData, current: Values) -> Start:
    """Return what a run starts from, or raise `OptionError` if that is not in the folder; changes nothing."""
    last, best = folder / LAST, folder / BEST
    present = [path for path in (last, previous(last), best, folder / RESULT, folder / CONFIG) if path.exists()]
    if present and not resume:
        raise OptionError(
            f"'{folder}' has a run already.\nExpected a folder without {present[0].name}.\nResume it with --resume,"
            " start again with --restart, which keeps the old files in a folder inside, or choose another `output`."
        )
    if not (last.exists() or previous(last).exists()):
        _require_nothing_trained(settings, folder)
        return Start(unusable=(best,))
    source, content, reason = read_generation(last)
    require_same_run(source, content, settings)
    require_same_data(source, content, current)
    steps, state = content["global_step"], content[RUN]
    per_epoch = len(data.training_batches(0, 0, settings.devices * settings.nodes))
    ended_within = steps < len(state["history"]) * per_epoch + state["batch"]
    if ended_within and (settings.max_steps is None or settings.max_steps > steps):
        raise OptionError(
            f"'{source}' ended within an epoch, whose rest cannot be trained.\n"
            f"Expected max_steps={steps}, got {settings.max_steps}.\n"
            "Start again with --restart, or in another `output`."
        )
    unusable = [last] if reason else []
    if not state["history"] or best_checkpoint(folder, state["history"])[0] != best:
        unusable.append(best)
    if reason:
        warnings.warn(f"'{last}' {reason}: the run resumes from {source.name}, the checkpoint before it.", stacklevel=2)
    return Start(content, source, tuple(unusable))


def prepare(settings: RunSettings, folder: Path) -> None:
    """Write the settings of a run that starts or resumes; its result, if it has one, is no longer the newest."""
    remove_temporary(folder)
    if (folder / RESULT).exists():
        os.replace(folder / RESULT, previous(folder / RESULT))
    with replacing(folder / CONFIG) as temporary:
        mapping = {KEY: SETTINGS.current, **as_mapping(settings), "output": str(folder)}
        temporary.write_text(dump_yaml(mapping), encoding="utf-8")


def require_settings(folder: Path) -> None:
    """Raise `OptionError` if the settings in a folder are not those of a run, and so its files are not either.

    Settings that are damaged beside a checkpoint, which holds them too, are only warned of: they will be replaced.
    """
    path = folder / CONFIG
    try:
        if path.exists():
            read_run(path)
    except OptionError as error:
        if not _is_newer(path) and any(_is_checkpoint(folder / name) for name in (LAST, BEST)):
            warnings.warn(f"'{path}' is damaged: it will be written again, as a run begins.", stacklevel=2)
            return
        reason = f"{str(error)[:200].rstrip('.')}.\nMove it away, or choose another `output`."
        raise OptionError(f"'{path}' needs to hold the settings of a run. Got: {reason}") from error


def _is_newer(path: Path) -> bool:
    """Whether a file of settings has another format, which says that it is not damaged."""
    with suppress(OptionError):
        return bool(read_yaml(path).get(KEY, SETTINGS.current) != SETTINGS.current)
    return False


def _is_checkpoint(path: Path) -> bool:
    with suppress(OptionError):
        return bool(read_generation(path)[1])
    return False


def _require_nothing_trained(settings: RunSettings, folder: Path) -> None:
    """Raise `OptionError` if a folder without a last checkpoint has more than what an early end leaves."""
    reason = ""
    if (folder / RESULT).exists() and read_record(folder / RESULT).failure is None:
        reason = f"beside {RESULT}"
    elif (folder / BEST).exists() and len(read_checkpoint(folder / BEST)[RUN]["history"]) > 1:
        reason = f"beside {BEST}"  # which is the first file of the first epoch
    if reason:
        raise OptionError(
            f"'{folder}' has no {LAST}.\nExpected it {reason}.\nPut it back, or start again with --restart."
        )
    if (folder / CONFIG).exists():
        content = {RUN: run_entry(read_run(folder / CONFIG), {})}
        require_same_run(folder / CONFIG, content, settings)
