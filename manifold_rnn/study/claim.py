"""A study shared by any number of workers. Each worker claims a case, and every case ends exactly once.

Every change of the state of a case happens under one lock. The state is read from the trials each time, so no queue can
disagree with them. A worker that dies leaves a running trial. Another worker marks this trial as lost before it starts
the next attempt. Finished trials cannot be changed. So a worker that was wrongly counted as dead gets `Superseded`.

Every trial is one attempt at a case. A case ends with the first attempt that is complete, pruned, or failed for a
reason of its own. Attempts whose worker died or was stopped do not count. The next attempt resumes from their
checkpoint. A failed case is run again only on request, see `Study.retry`.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from ..errors import OptionError
from ..training.formats import KEY, STUDY
from ..training.record import RunRecord
from ..training.values import Value, Values
from .grid import Case, Grid, case_key, differences, draw_name
from .liveness import Superseded, identity, is_known_dead, remove_identity
from .store import Store, StudyBusy, StudyLost, reaching
from .trials import (
    HINT,
    LOST,
    MAX_DEATHS,
    OWN,
    STATES,
    STOPPED,
    final_attempt,
    is_failed,
    kills_its_workers,
    require_whole,
)

T = TypeVar("T")
_MOST_DRAWS = 100
_PAUSES = (1, 2, 5, 10, 20, 30)  # seconds between attempts to store the end of a trial


@dataclass(frozen=True)
class Attempt:
    """A case that this worker has claimed, with the number of its trial in the storage."""

    trial: int
    case: Case
    choices: Values
    is_retry: bool = False


class Study:
    """A study in an open storage, as one worker uses it.

    ``grid`` defines the cases. With ``extend``, it may have more cases than the stored grid; otherwise `OptionError` is
    raised. ``about`` describes the task for reports, and must contain ``higher_is_better``. A worker on another machine
    counts as dead after ``patience`` seconds without a heartbeat.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        grid: Grid,
        about: Mapping[str, Value],
        *,
        extend: bool = False,
        patience: float = 60.0,
    ) -> None:
        self.name, self.grid, self.cases, self.about = name, grid, grid.cases(), dict(about)
        self._store, self._storage, self._patience = store, store.storage, patience
        self._since: dict[tuple[int, object], float] = {}  # when this process first read this heartbeat of a trial
        self.heartbeat_interval = patience / 6
        with reaching(store), store.lock():
            self._study = _opened(store, name, grid, bool(about["higher_is_better"]))
            stored = self._study.user_attrs.get("grid")
            if stored is None:
                self._study.set_user_attr(KEY, STUDY.current)
            else:
                STUDY.require(self._study.user_attrs.get(KEY, 1), f"The study '{name}'")
                _require_same(name, stored, grid, extend)
            if stored is None or differences(stored, grid.plain()):
                self._study.set_user_attr("grid", grid.plain())
            self._id = self._storage.get_study_id_from_name(name)

    def attempts(self) -> dict[str, list[FrozenTrial]]:
        """Return the attempts at each case in order, by the key of the case.

        The key depends on the run only. In a grid it does not depend on how the file is written. In a search it does
        not depend on how often the run was drawn.
        """
        attempts: dict[str, list[FrozenTrial]] = defaultdict(list)
        draws: dict[str, str] = {}
        with reaching(self._store):
            for trial in sorted(self._trials(), key=lambda trial: trial.number):
                if "case" in trial.user_attrs:
                    point = self.grid.point(trial.user_attrs["choices"])
                    if self.grid.search:
                        point = draws.setdefault(point, draw_name(len(draws)))
                    attempts[case_key(point, trial.user_attrs["seed"])].append(trial)
        return attempts

    def ends(self) -> dict[str, FrozenTrial]:
        """Return the final trial of each case that has ended, by the key of the case."""
        attempts, retried = self.attempts(), self._retried()
        final = {case.key: final_attempt(attempts.get(case.key, []), retried) for case in self.cases}
        return {key: trial for key, trial in final.items() if trial is not None}

    def retry(self, keys: Collection[str]) -> None:
        """Discard the failures of these cases, so that workers claim them again."""
        with reaching(self._store), self._store.lock():
            failed = {trial.number for key, trial in self.ends().items() if key in keys and is_failed(trial)}
            self._study.set_user_attr("retried", sorted(failed | self._retried()))

    def claim(self, skip: Collection[str] = ()) -> Attempt | None:
        """Start an attempt at the first case that has not ended and is not running. Returns None if there is none.

        Cases whose key is in ``skip`` are left out. Raises `StudyBusy` while another process holds the lock of the
        storage.
        """
        with reaching(self._store), self._store.lock():
            self._close_lost()
            attempts, retried = self.attempts(), self._retried()
            for case in self.cases:
                own = attempts.get(case.key, [])
                if final_attempt(own, retried) or any(trial.state is TrialState.RUNNING for trial in own):
                    continue
                if case.key in skip:
                    continue
                if kills_its_workers(own):
                    self._give_up(case, own)
                else:
                    return self._start(case, attempts)
        return None

    def beat(self, attempt: Attempt, count: int) -> None:
        """Store a heartbeat of an attempt. Raises `Superseded` if another worker has closed the attempt."""
        self._if_reachable(lambda: self._storage.set_trial_user_attr(attempt.trial, "beat", count))

    def report(self, attempt: Attempt, epoch: int, value: float) -> bool:
        """Store the metric of an epoch. Returns whether it is worse than the median of earlier attempts.

        Raises `Superseded` if another worker has closed the attempt.
        """
        self._if_reachable(lambda: self._storage.set_trial_intermediate_value(attempt.trial, epoch, value))
        if not self.grid.pruning:
            return False
        prune = self._study.pruner.prune
        return bool(self._if_reachable(lambda: prune(self._study, self._storage.get_trial(attempt.trial))))

    def finish(self, attempt: Attempt, record: RunRecord) -> bool:
        """Store how an attempt ended, with several tries. Returns false if another worker has taken the case."""
        record = replace(record, choices=dict(attempt.choices), seed=attempt.case.seed)
        attributes = {"record": record.as_digested_dict(), "failure": record.failure, "end": OWN}
        end = (attempt.trial, attributes, STATES[record.state], record.validation)
        pauses = iter(_PAUSES)
        while True:
            try:
                return self._close(*end)
            except StudyBusy:  # wait without limit: the process with the lock ends or resumes
                continue
            except StudyLost:
                pause = next(pauses, None)
                if pause is None:
                    raise
                time.sleep(pause)

    def release(self, attempt: Attempt) -> None:
        """Close an attempt without a result, so that any worker can claim its case."""
        self._close(attempt.trial, {"end": STOPPED}, TrialState.FAIL, None)

    def close(self) -> None:
        """Close the connections of the storage."""
        self._store.close()

    def _if_reachable(self, call: Callable[[], T]) -> T | None:
        """Call the storage. Returns None if it cannot be reached; only `finish` tries again."""
        try:
            with reaching(self._store):
                return call()
        except UpdateFinishedTrialError as error:
            raise Superseded from error
        except OSError:
            return None

    def _close(self, trial: int, attributes: Mapping[str, Value], state: TrialState, value: float | None) -> bool:
        with reaching(self._store), self._store.lock():
            stored = self._storage.get_trial(trial)
            if stored.state.is_finished():  # by another worker, or by an earlier try whose answer was lost
                return stored.user_attrs.get("end") not in (STOPPED, LOST)
            self._set(trial, attributes)
            closed = self._storage.set_trial_state_values(trial, state, None if value is None else [value])
            remove_identity()
            return closed

    def _close_lost(self) -> None:
        now = time.monotonic()  # the clock of this process, because other machines' may be wrong
        for trial in self._trials():
            if trial.state is not TrialState.RUNNING:
                continue
            heartbeat = (trial.number, trial.user_attrs.get("beat"))
            silent = now - self._since.setdefault(heartbeat, now) > self._patience
            unnamed = "case" not in trial.user_attrs  # its worker died in `_draw`, while it held the lock
            if silent or unnamed or is_known_dead(trial.user_attrs["worker"]):
                self._discard(trial, LOST)

    def _start(self, case: Case, attempts: Mapping[str, Sequence[FrozenTrial]]) -> Attempt:
        same_point = (t for seed in self.grid.seeds for t in attempts.get(case_key(case.point, seed), ()))
        drawn, earlier, choices = next(same_point, None), attempts.get(case.key), case.choices
        if choices is None:
            if drawn is None:
                return self._draw(case, attempts)
            choices = drawn.user_attrs["choices"]
        reported = earlier[-1].intermediate_values if earlier else {}
        template = create_trial(
            state=TrialState.RUNNING,
            params=drawn.params if drawn else None,
            distributions=drawn.distributions if drawn else None,
            user_attrs=_claimed(case, choices, max(reported, default=0)),
            intermediate_values=reported,
        )
        is_retry = any(trial.number in self._retried() for trial in earlier or ())
        return Attempt(self._storage.create_new_trial(self._id, template), case, choices, is_retry)

    def _draw(self, case: Case, attempts: Mapping[str, Sequence[FrozenTrial]]) -> Attempt:
        """Draw a combination that was not drawn before. If the sampler repeats one, take the first that is left."""
        search = self.grid.search
        known = {self.grid.point(t.user_attrs["choices"]) for trials in attempts.values() for t in trials}
        for _ in range(_MOST_DRAWS):
            self._study.sampler = optuna.samplers.TPESampler(seed=len(self._trials()))
            trial = self._study.ask({key: _distribution(space) for key, space in search.items()})
            choices = {k: json.loads(drawn) if "choices" in search[k] else drawn for k, drawn in trial.params.items()}
            if self.grid.point(choices) not in known:
                number = self._number(trial)
                attributes = _claimed(case, choices, 0)
                name = attributes.pop("case")
                self._set(number, {**attributes, "case": name})  # last, because a name marks a complete trial
                return Attempt(number, case, choices)
            self._discard(trial, STOPPED)
            if left := next((other for point, other in self.grid.different() if point not in known), None):
                self._study.enqueue_trial({k: _json(v) if "choices" in search[k] else v for k, v in left.items()})
        raise OptionError(
            f"`trials` needs at most {len(known)} combinations. {_MOST_DRAWS} more draws gave only equal runs. "
            "Lower it, or widen a range."
        )

    def _give_up(self, case: Case, earlier: Sequence[FrozenTrial]) -> None:
        choices = earlier[-1].user_attrs["choices"]
        failure = f"the worker died {MAX_DEATHS} times in a row before another epoch had ended"
        record = RunRecord(failure=failure, choices=choices, seed=case.seed).as_digested_dict()
        attributes = {**_claimed(case, choices, 0), "record": record, "failure": failure, "end": OWN}
        self._storage.create_new_trial(self._id, create_trial(state=TrialState.FAIL, user_attrs=attributes))

    def _discard(self, trial: FrozenTrial | optuna.Trial, end: str) -> None:
        """Close a running trial without a result. Call it under the lock."""
        number = self._number(trial)
        self._set(number, {"end": end})
        self._storage.set_trial_state_values(number, TrialState.FAIL)

    def _number(self, trial: FrozenTrial | optuna.Trial) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, trial.number)

    def _set(self, trial: int, attributes: Mapping[str, Value]) -> None:
        for key, content in attributes.items():
            self._storage.set_trial_user_attr(trial, key, content)

    def _retried(self) -> set[int]:
        """The numbers of the failed trials that were discarded."""
        with reaching(self._store):
            return set(self._study.user_attrs.get("retried", ()))

    def _trials(self) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            require_whole(trial)
        return trials


def _opened(store: Store, name: str, grid: Grid, maximize: bool) -> optuna.Study:
    epochs = grid.base.get("epochs", 10)
    warmup = epochs // 5 if isinstance(epochs, int) else 0
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=warmup)
    if name in optuna.get_all_study_names(store.storage):
        return optuna.load_study(study_name=name, storage=store.storage, pruner=pruner)
    direction = StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE
    return optuna.create_study(study_name=name, storage=store.storage, pruner=pruner, direction=direction)


def _require_same(name: str, stored: Mapping[str, Value], grid: Grid, extend: bool) -> None:
    """Raise `OptionError` with the differences, unless the grids are equal or the new one extends the stored one."""
    changed = "; ".join(differences(stored, grid.plain()))
    if not changed:
        return
    try:
        old = Grid(**stored)
    except (TypeError, OptionError) as error:
        raise OptionError(f"The study '{name}' cannot be read: its grid is damaged. {HINT}") from error
    if grid.extends(old) and (extend or old.extends(grid)):  # the second: the same cases, written differently
        return
    changed = changed if len(changed) <= 180 else f"{changed[:177]}..."
    hint = "Choose another `study` or `output`, or add --extend if the old cases are all in the new grid."
    if extend:
        hint = (
            "--extend can only add values to a grid, seeds, or trials to a search. Choose another `study` or `output`."
        )
    raise OptionError(f"The study '{name}' has another grid: {changed}. {hint}")


def _claimed(case: Case, choices: Values, from_epoch: int) -> Values:
    own = {"case": case.key, "point": case.point, "seed": case.seed, "choices": dict(choices)}
    return {**own, "worker": identity(), "from_epoch": from_epoch}


def _json(value: Value) -> str:
    return json.dumps(value, sort_keys=True)


def _distribution(space: Values) -> BaseDistribution:
    """The distribution of a range or of choices. It has integers if both ends are integers; choices are JSON."""
    if "choices" in space:
        return CategoricalDistribution([_json(value) for value in space["choices"]])
    low, high, log = space["low"], space["high"], space.get("log", False)
    integers = isinstance(low, int) and isinstance(high, int)
    return IntDistribution(low, high, log=log) if integers else FloatDistribution(low, high, log=log)
