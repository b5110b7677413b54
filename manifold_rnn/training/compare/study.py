"""A study that any number of workers share: each claims a case, and every case ends exactly once.

All that changes where a case stands happens under one lock, and is worked out anew from the trials each time: there is
no queue that could disagree with them. A worker that dies at any moment leaves a running trial, which another one marks
as lost before it starts the next attempt. Finished trials can't be changed, so a worker that was only thought dead
finds its attempt closed.
"""

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from . import spaces, standing
from .agreement import require_same
from .grid import Case, Grid, canonical
from .liveness import Watch, identity, known_dead
from .storage import Store, StudyLost, reaching

_PAUSES = (1, 2, 5, 10, 20, 30)  # seconds between tries to write how a trial has ended


class Superseded(Exception):
    """Another worker has taken over this case."""


@dataclass(frozen=True)
class Attempt:
    """A case that this worker has claimed: the storage's number for it, the case, and how many attempts were before."""

    trial: int
    case: Case
    choices: dict[str, Any]
    earlier: int


@dataclass(frozen=True)
class End:
    """How an attempt ended: what its run left, its metric, and why it failed or that it was pruned."""

    record: dict[str, Any]
    value: float | None = None
    failure: str | None = None
    pruned: bool = False

    @property
    def state(self) -> TrialState:
        """Optuna's word for it."""
        if self.failure is not None:
            return TrialState.FAIL
        return TrialState.PRUNED if self.pruned else TrialState.COMPLETE


class Study:
    """A study in an open storage.

    Parameters
    ----------
    store : Store
    name : str
    grid : Grid
        What the study runs.
    about : mapping
        What reports say of the task, ``higher_is_better`` at least; kept with the study.
    extend : bool
        Whether the grid may have more than that of a study that exists.
    patience : float
        Seconds without a heartbeat after which a worker on another machine counts as dead.

    Raises
    ------
    OptionError
        If the study exists and has another grid.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        grid: Grid,
        about: Mapping[str, Any],
        *,
        extend: bool = False,
        patience: float = 60.0,
    ) -> None:
        self.name, self.grid, self.cases = name, grid, grid.cases()
        self._store, self._storage, self._watch = store, store.storage, Watch(patience)
        self.beats_every = patience / 6
        with reaching(store), store.lock.hold():
            self._study = _made(store, name, grid, bool(about["higher_is_better"]))
            stored = self._study.user_attrs.get("grid")
            if stored is not None:
                require_same(name, stored, grid, extend)
            if stored is None or canonical(stored) != canonical(grid.plain()):
                self._study.set_user_attr("about", dict(about))
                self._study.set_user_attr("grid", grid.plain())
            self._id = self._storage.get_study_id_from_name(name)

    def claim(self) -> Attempt | None:
        """Start an attempt at the first case that has not ended and that nobody runs; None if there is none."""
        with reaching(self._store), self._store.lock.hold():
            self._close_lost()
            trials = self._trials()
            attempts = standing.by_case(trials)
            for case in self.cases:
                mine = attempts.get(case.key, [])
                if standing.ended(mine) or standing.running(mine):
                    continue
                if standing.kills_its_workers(mine):
                    self._give_up(case, mine)
                else:
                    return self._start(case, mine, trials)
        return None

    def close(self) -> None:
        """Close the storage's connections."""
        self._store.close()

    @property
    def about(self) -> dict[str, Any]:
        """What reports say of the task."""
        return dict(self._study.user_attrs["about"])

    def ends(self) -> dict[str, FrozenTrial]:
        """Return the trial that each case has ended with, by the case's key."""
        with reaching(self._store):
            attempts = standing.by_case(self._trials())
        found = {case.key: standing.ended(attempts.get(case.key, [])) for case in self.cases}
        return {key: trial for key, trial in found.items() if trial is not None}

    def beat(self, attempt: Attempt, count: int) -> bool:
        """Say that an attempt's worker is alive; false if nobody waits for it any more."""
        try:
            with reaching(self._store):
                self._storage.set_trial_user_attr(attempt.trial, "beat", count)
        except UpdateFinishedTrialError:
            return False
        except OSError:  # out of reach for a while; only the end of a trial insists
            return True
        return True

    def report(self, attempt: Attempt, epoch: int, value: float) -> None:
        """Note the metric of an epoch.

        Raises
        ------
        Superseded
            If the attempt was closed by another worker.
        """
        try:
            with reaching(self._store):
                self._storage.set_trial_intermediate_value(attempt.trial, epoch, value)
        except UpdateFinishedTrialError as error:
            raise Superseded from error
        except OSError:
            return

    def should_prune(self, attempt: Attempt) -> bool:
        """Return whether an attempt is worse so far than the median of those before it."""
        if not self.grid.pruning:
            return False
        try:
            with reaching(self._store):
                return self._study.pruner.prune(self._study, self._storage.get_trial(attempt.trial))
        except OSError:
            return False

    def finish(self, attempt: Attempt, end: End) -> bool:
        """Write how an attempt ended, for some time if need be; false if the case is no longer this worker's."""
        attributes = {"record": end.record, "failure": end.failure, "end": standing.OWN}
        for pause in _PAUSES:
            try:
                return self._close(attempt.trial, attributes, end.state, None if end.failure else end.value)
            except StudyLost:
                time.sleep(pause)
        return self._close(attempt.trial, attributes, end.state, None if end.failure else end.value)

    def release(self, attempt: Attempt) -> None:
        """Leave a case to whoever claims it next."""
        self._close(attempt.trial, {"end": standing.STOPPED}, TrialState.FAIL, None)

    def _close(self, trial: int, attributes: Mapping[str, Any], state: TrialState, value: float | None) -> bool:
        with reaching(self._store), self._store.lock.hold():
            found = self._storage.get_trial(trial)
            if found.state.is_finished():  # by another, or by the try before, whose answer did not arrive
                return standing.counts(found)
            self._set(trial, attributes)
            return self._storage.set_trial_state_values(trial, state, None if value is None else [value])

    def _close_lost(self) -> None:
        for trial in self._trials():
            if trial.state is not TrialState.RUNNING:
                continue
            silent = self._watch.silent(trial.number, trial.user_attrs.get("beat"))
            unnamed = "case" not in trial.user_attrs  # its worker died in `_draw`, while it held the lock
            if silent or unnamed or known_dead(trial.user_attrs["worker"]):
                number = self._number(trial)
                self._set(number, {"end": standing.LOST})
                self._storage.set_trial_state_values(number, TrialState.FAIL)

    def _start(self, case: Case, earlier: Sequence[FrozenTrial], trials: Iterable[FrozenTrial]) -> Attempt:
        same = (trial for trial in trials if trial.user_attrs.get("point") == case.point)
        drawn = next(same, None)  # for another seed, or before
        if case.choices is None and drawn is None:
            return self._draw(case)
        choices = case.choices if case.choices is not None else drawn.user_attrs["choices"] if drawn else {}
        reported = earlier[-1].intermediate_values if earlier else {}
        template = create_trial(
            state=TrialState.RUNNING,
            params=drawn.params if drawn else None,
            distributions=drawn.distributions if drawn else None,
            user_attrs=_claimed(case, choices, max(reported, default=0)),
            intermediate_values=reported,
        )
        return Attempt(self._storage.create_new_trial(self._id, template), case, choices, len(earlier))

    def _draw(self, case: Case) -> Attempt:
        space = self.grid.search
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant_liar is called experimental
            self._study.sampler = optuna.samplers.TPESampler(constant_liar=True, seed=len(self._trials()))
            trial = self._study.ask({key: spaces.distribution(entry) for key, entry in space.items()})
        choices = {key: spaces.value(space[key], drawn) for key, drawn in trial.params.items()}
        number = self._number(trial)
        attributes = _claimed(case, choices, 0)
        named = attributes.pop("case")
        self._set(number, {**attributes, "case": named})  # the name last: it says that the rest is there
        return Attempt(number, case, choices, 0)

    def _give_up(self, case: Case, earlier: Sequence[FrozenTrial]) -> None:
        attributes = _claimed(case, earlier[-1].user_attrs["choices"], 0)
        failure = f"the worker died {standing.DEATHS} times in a row before another epoch had ended"
        attributes |= {"record": {}, "failure": failure, "end": standing.OWN}
        self._storage.create_new_trial(self._id, create_trial(state=TrialState.FAIL, user_attrs=attributes))

    def _number(self, trial: FrozenTrial | optuna.Trial) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, trial.number)

    def _set(self, trial: int, attributes: Mapping[str, Any]) -> None:
        for key, content in attributes.items():
            self._storage.set_trial_user_attr(trial, key, content)

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)


def _made(store: Store, name: str, grid: Grid, maximize: bool) -> optuna.Study:
    epochs = grid.base.get("epochs", 10)
    warmup = epochs // 5 if isinstance(epochs, int) else 0
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=warmup)
    if name in optuna.get_all_study_names(store.storage):
        return optuna.load_study(study_name=name, storage=store.storage, pruner=pruner)
    direction = StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE
    return optuna.create_study(study_name=name, storage=store.storage, pruner=pruner, direction=direction)


def _claimed(case: Case, choices: Mapping[str, Any], from_epoch: int) -> dict[str, Any]:
    return {
        "case": case.key,
        "point": case.point,
        "seed": case.seed,
        "choices": dict(choices),
        "worker": identity(),
        "from_epoch": from_epoch,
    }
