"""Where each case of a study stands, read from its trials: every trial is one attempt at a case.

A case ends with the first attempt that ends by itself: complete, pruned or failed for a reason of its own. Attempts
whose worker died or was stopped do not count; the next one goes on from their checkpoint.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from optuna.trial import FrozenTrial, TrialState

STOPPED, LOST, OWN = "stopped", "lost", "own"
DEATHS = 3


def by_case(trials: Iterable[FrozenTrial]) -> dict[str, list[FrozenTrial]]:
    """Return the attempts at each case, by its key, in their order."""
    found: dict[str, list[FrozenTrial]] = defaultdict(list)
    for trial in sorted(trials, key=lambda trial: trial.number):
        if "case" in trial.user_attrs:
            found[trial.user_attrs["case"]].append(trial)
    return found


def ended(attempts: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Return the attempt that a case ended with."""
    return next((trial for trial in attempts if counts(trial)), None)


def running(attempts: Sequence[FrozenTrial]) -> bool:
    """Return whether one of the attempts goes on."""
    return any(trial.state is TrialState.RUNNING for trial in attempts)


def counts(trial: FrozenTrial) -> bool:
    """Return whether an attempt has ended, and by itself."""
    return trial.state.is_finished() and trial.user_attrs.get("end") not in (STOPPED, LOST)


def kills_its_workers(attempts: Sequence[FrozenTrial]) -> bool:
    """Return whether the last workers all died before they had finished one epoch more."""
    died = [trial.user_attrs.get("end") == LOST and not _advanced(trial) for trial in attempts]
    return len(died) >= DEATHS and all(died[-DEATHS:])


def _advanced(trial: FrozenTrial) -> bool:
    return (trial.last_step or 0) > trial.user_attrs["from_epoch"]
