"""What a trial of a study stores: how an attempt at a case ended, with checks against damage."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from optuna.trial import FrozenTrial, TrialState

from ..errors import OptionError
from ..training.record import COMPLETE, FAILED, PRUNED, RunRecord
from .grid import Case

STOPPED, LOST, OWN = "stopped", "lost", "own"  # the reasons for which an attempt ends
STATES = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}
MAX_DEATHS = 3
HINT = "If it is damaged, move the study (such as study.journal) away, and repeat the command."
_OF_A_CLAIM = ("case", "seed", "choices", "worker", "from_epoch")


def require_whole(trial: FrozenTrial) -> None:
    """Raise `OptionError` if a trial lacks an attribute that it needs, or has the result of another run."""
    attributes, ended = trial.user_attrs, _has_result(trial)
    needed = [*_OF_A_CLAIM] * (ended or "case" in attributes) + ["record"] * ended
    for key in needed:
        if key not in attributes:
            raise _damaged(trial, f"It has no {key}.")
    record = attributes["record"] if ended else {}
    if "sha256" in record and any(record.get(key) != attributes[key] for key in ("choices", "seed")):
        raise _damaged(trial, "A result is damaged: it belongs to another run.")


def stored_record(case: Case, end: FrozenTrial) -> RunRecord:
    """Return the record of a case that has ended. Raises `OptionError` if it is damaged."""
    try:
        record = RunRecord.from_dict(end.user_attrs["record"])
    except OptionError as error:
        raise _damaged(end, str(error)) from error
    if end.state is not STATES[record.state] and not record.not_finite:  # earlier versions ranked such a run
        raise _damaged(end, "A result is damaged: its trial ended in another way.")
    return replace(record, choices=case.choices or record.choices)


def is_failed(trial: FrozenTrial) -> bool:
    """Return whether a final trial, as in `Study.ends`, has failed."""
    return trial.state is TrialState.FAIL


def final_attempt(attempts: Sequence[FrozenTrial], retried: Collection[int]) -> FrozenTrial | None:
    """Return the attempt with which a case ended, or None."""
    return next((trial for trial in attempts if _has_result(trial) and trial.number not in retried), None)


def kills_its_workers(attempts: Sequence[FrozenTrial]) -> bool:
    """Return whether each of the last workers died before it finished an epoch."""
    last = attempts[-MAX_DEATHS:]
    lost = [t.user_attrs.get("end") == LOST and (t.last_step or 0) <= t.user_attrs["from_epoch"] for t in last]
    return len(lost) == MAX_DEATHS and all(lost)


def _has_result(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() and trial.user_attrs.get("end") not in (STOPPED, LOST)


def _damaged(trial: FrozenTrial, reason: str) -> OptionError:
    return OptionError(f"The study cannot be read at trial {trial.number}. {reason} {HINT}")
