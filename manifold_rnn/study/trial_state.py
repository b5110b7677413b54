"""The state of each case of a study, read from its trials: every trial is one attempt at a case.

A case ends with the first attempt that ends by itself: complete, pruned, or failed for a reason of its own. Attempts
whose worker died or was stopped do not count; the next one resumes from their checkpoint.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from optuna.trial import FrozenTrial, TrialState

STOPPED, LOST, OWN = "stopped", "lost", "own"
MAX_DEATHS = 3


def by_case(trials: Iterable[FrozenTrial]) -> dict[str, list[FrozenTrial]]:
    """Return the attempts at each case, by its key, in their order."""
    attempts: dict[str, list[FrozenTrial]] = defaultdict(list)
    for trial in sorted(trials, key=lambda trial: trial.number):
        if "case" in trial.user_attrs:
            attempts[trial.user_attrs["case"]].append(trial)
    return attempts


def final_attempt(attempts: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Return the attempt with which a case has ended."""
    return next((trial for trial in attempts if is_final(trial)), None)


def is_final(trial: FrozenTrial) -> bool:
    """Return whether an attempt has ended by itself."""
    return trial.state.is_finished() and trial.user_attrs.get("end") not in (STOPPED, LOST)


def is_running(attempts: Sequence[FrozenTrial]) -> bool:
    """Return whether one of the attempts is running."""
    return any(trial.state is TrialState.RUNNING for trial in attempts)


def kills_its_workers(attempts: Sequence[FrozenTrial]) -> bool:
    """Return whether the last workers all died before they had finished one more epoch."""
    died = [
        trial.user_attrs.get("end") == LOST and (trial.last_step or 0) <= trial.user_attrs["from_epoch"]
        for trial in attempts
    ]
    return len(died) >= MAX_DEATHS and all(died[-MAX_DEATHS:])
