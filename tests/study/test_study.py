"""How a study hands out cases: in one process, step by step, against every way in which a worker can leave."""

import dataclasses
import math
import os
import subprocess
import sys

import pytest

pytest.importorskip("optuna")
import optuna
from support.study_cases import ABOUT, BASE, attempts, epoch_scores, open_study, record, train

from manifold_rnn.errors import OptionError
from manifold_rnn.study import Grid, claim, liveness
from manifold_rnn.study.liveness import Superseded
from manifold_rnn.study.results import gather
from manifold_rnn.study.store import JOURNAL
from manifold_rnn.study.worker import Worker
from manifold_rnn.training.checkpoint import LAST, RUN, read_checkpoint, write_checkpoint
from manifold_rnn.training.signals import StopRequested, StopSignal

SMALL = {"network.constraint": ["Orthogonal", "Unitary"], "network.retraction": ["cayley"]}
SEARCH = Grid(
    BASE,
    search={"optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}, "network.retraction": {"choices": ["exp", "qr"]}},
    trials=4,
    seeds=[0, 1],
)


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def released(folder):
    """What a process leaves of its identity when it dies: a file that nobody locks."""
    (folder / "worker.lock").touch()
    return str(folder / "worker.lock")


def end(value=0.9):
    return record([{**epoch_scores(value, 1), "val_metric": value}])


def test_no_case_is_claimed_twice_by_workers_that_live(tmp_path):
    one, other = (open_study(tmp_path, axes=SMALL) for _ in range(2))
    claims = [study.claim() for study in (one, other, one, other, one)]
    assert [attempt.case.key for attempt in claims[:4]] == [case.key for case in one.cases]
    assert claims[4] is None
    assert all(one.finish(attempt, end()) for attempt in claims[:4])
    assert one.claim() is None and len(other.ends()) == 4


def test_a_case_of_a_dead_process_is_claimed_again_at_once(tmp_path, monkeypatch):
    one = open_study(tmp_path, axes=SMALL)
    with monkeypatch.context() as past:
        past.setattr(claim, "identity", lambda: released(tmp_path))
        lost = one.claim()
    again = one.claim()
    assert again.case == lost.case
    assert attempts(one)[lost.case.key] == [("FAIL", "lost"), ("RUNNING", None)]


def test_a_silent_machine_loses_its_case_and_can_do_no_harm_when_it_comes_back(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(claim.time, "monotonic", lambda: clock[0])
    away, here = (open_study(tmp_path, axes=SMALL, patience=60) for _ in range(2))
    taken = away.claim()
    away.report(taken, 1, 0.5)
    for _ in range(3):
        attempt = here.claim()
        assert attempt.case != taken.case and here.finish(attempt, end())
    for count in range(1, 4):  # a heart that beats keeps the case
        clock[0] += 50
        away.beat(taken, count)
        assert here.claim() is None
    clock[0] += 59
    assert here.claim() is None
    clock[0] += 2
    again = here.claim()
    assert again.case == taken.case
    for late in (lambda: away.beat(taken, 9), lambda: away.report(taken, 2, 0.5)):
        with pytest.raises(Superseded):
            late()
    assert not away.finish(taken, end(0.1))
    assert here.finish(again, end(0.8))
    assert here.ends()[taken.case.key].value == 0.8


def test_a_finish_that_was_written_but_not_answered_is_no_loss(tmp_path):
    one = open_study(tmp_path, axes=SMALL)
    attempt = one.claim()
    assert one.finish(attempt, end(0.8))
    assert one.finish(attempt, end(0.1))  # as a second try, after the answer to the first was lost
    assert one.ends()[attempt.case.key].value == 0.8


def test_a_stopped_case_goes_on_with_what_it_has_reported(tmp_path):
    one = open_study(tmp_path, axes=SMALL)
    attempt = one.claim()
    one.report(attempt, 1, 0.5)
    one.release(attempt)
    again = one.claim()
    assert again.case == attempt.case
    assert attempts(one)[attempt.case.key] == [("FAIL", "stopped"), ("RUNNING", None)]
    assert one.attempts()[again.case.key][-1].intermediate_values == {1: 0.5}


def test_a_case_that_kills_its_workers_fails_after_three_and_one_that_advances_is_not(tmp_path, monkeypatch):
    one = open_study(tmp_path, axes=SMALL)
    monkeypatch.setattr(claim, "identity", lambda: released(tmp_path))
    first = one.claim().case
    for epoch in range(1, 5):  # this one ends an epoch each time
        attempt = one.claim()
        assert attempt.case == first
        one.report(attempt, epoch, 0.5)
    for _ in range(3):
        assert one.claim().case == first
    assert one.claim().case != first
    assert "died 3 times in a row" in one.ends()[first.key].user_attrs["failure"]


def test_a_trial_without_a_case_was_left_by_a_worker_that_died_while_it_drew(tmp_path):
    one = open_study(tmp_path, axes=SEARCH)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL)))
    other = optuna.load_study(study_name="study", storage=storage)
    other.ask().set_user_attr("point", "draw 1")
    attempt = one.claim()
    assert attempt.case.key == "draw 1, seed 0"
    assert [trial.state.name for trial in other.get_trials()] == ["FAIL", "RUNNING"]


def test_half_a_line_at_the_end_of_the_journal_is_cut_off(tmp_path):
    one = open_study(tmp_path, axes=SMALL)
    attempt = one.claim()
    whole = (tmp_path / JOURNAL).read_bytes()
    with open(tmp_path / JOURNAL, "ab") as file:
        file.write(whole.splitlines()[-1][: len(whole.splitlines()[-1]) // 2])
    other = open_study(tmp_path, axes=SMALL)
    assert other.claim().case != attempt.case
    assert one.finish(attempt, end())
    assert (tmp_path / JOURNAL).read_bytes().startswith(whole)
    assert len(open_study(tmp_path, axes=SMALL).ends()) == 1


def test_all_seeds_of_a_draw_have_the_same_choices_and_draws_differ(tmp_path):
    one = open_study(tmp_path, axes=SEARCH)
    claims = []
    while attempt := one.claim():
        claims.append(attempt)
        one.finish(attempt, end(0.9 - abs(math.log10(attempt.choices["optimizer.lr"]) + 2) / 10))
    assert len(claims) == 8
    by_point = {point: [c.choices for c in claims if c.case.point == point] for point in {c.case.point for c in claims}}
    assert all(first == second for first, second in by_point.values())
    assert len({str(first) for first, _ in by_point.values()}) == 4
    assert all(
        1e-4 <= c.choices["optimizer.lr"] <= 1e-1 and c.choices["network.retraction"] in ("exp", "qr") for c in claims
    )


FEW = Grid(BASE, search={"epochs": {"low": 1, "high": 3}, "clip": {"choices": [1, 2]}}, trials=50, seeds=[0, 1])


def test_a_search_runs_every_combination_once_with_each_seed(tmp_path):
    one = open_study(tmp_path, axes=FEW)
    Worker(one, lambda mapping, **options: end(0.9 - mapping["epochs"] / 10), tmp_path / "runs").work()
    runs = [(run.choices["epochs"], run.choices["clip"], run.seed) for run in gather(one).runs]
    assert sorted(runs) == [(k, clip, seed) for k in (1, 2, 3) for clip in (1, 2) for seed in (0, 1)]
    assert all(len(row.complete) == 2 for row in gather(one).rows)


def test_equal_draws_of_an_earlier_version_are_one_combination(tmp_path, monkeypatch):
    one = open_study(tmp_path, axes=FEW)
    with monkeypatch.context() as past:
        past.setattr(claim.optuna.samplers, "TPESampler", lambda seed: optuna.samplers.RandomSampler(seed=0))
        repeated = [one._draw(case, {}) for case in one.cases[:2]]
    assert repeated[0].choices == repeated[1].choices
    assert all(one.finish(attempt, end()) for attempt in repeated)
    (row,) = gather(one).rows
    assert len(row.complete) == 1 and row.test_deviation is None
    Worker(one, lambda mapping, **options: end(), tmp_path / "runs").work()
    assert len(gather(one).rows) == 6


def test_a_search_that_finds_nothing_new_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "_MOST_DRAWS", 3)
    low = 0.1
    one = open_study(tmp_path, axes=Grid(BASE, search={"clip": {"low": low, "high": math.nextafter(low, 1)}}, trials=9))
    with pytest.raises(OptionError, match=r"`trials` needs at most [12] combinations"):
        Worker(one, lambda mapping, **options: end(), tmp_path / "runs").work()


def test_a_search_is_the_same_again(tmp_path):
    drawn = []
    for name in ("a", "b"):
        one = open_study(tmp_path, axes=SEARCH, name=name)
        drawn.append([one.claim().choices for _ in range(4)])
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("change", ["base", "values", "seeds", "key"])
def test_another_grid_is_refused_by_what_differs_and_changes_nothing(change, tmp_path):
    open_study(tmp_path, axes=SMALL)
    before = (tmp_path / JOURNAL).read_bytes()
    base, axes, seeds, named = {
        "base": ({**BASE, "epochs": 5}, SMALL, [0, 1], "base.epochs was 4, now 5"),
        "values": (BASE, {**SMALL, "network.retraction": ["exp"]}, [0, 1], "retraction was cayley, now exp"),
        "seeds": (BASE, SMALL, [0], "seeds was 0, 1, now 0"),
        "key": (BASE, {**SMALL, "optimizer.lr": [0.1]}, [0, 1], "grid.optimizer.lr was missing, now 0.1"),
    }[change]
    for extend in (False, True):
        with pytest.raises(OptionError) as refusal:
            open_study(tmp_path, axes=Grid(base, axes, seeds=seeds), extend=extend)
        assert named in str(refusal.value) and len(str(refusal.value)) <= 400
    assert (tmp_path / JOURNAL).read_bytes() == before


def test_a_study_is_extended_by_values_and_seeds_and_keeps_what_has_ended(tmp_path):
    Worker(open_study(tmp_path, axes=SMALL, seeds=[0]), train, tmp_path / "runs").work()
    wider = {**SMALL, "network.retraction": ["cayley", "polar"]}
    with pytest.raises(OptionError, match="add --extend"):
        open_study(tmp_path, axes=wider)
    one = open_study(tmp_path, axes=wider, extend=True)
    assert (len(one.ends()), len(one.cases)) == (2, 8)
    Worker(one, train, tmp_path / "runs").work()
    assert all(len(tries) == 1 for tries in attempts(one).values()) and len(one.ends()) == 8
    assert len(open_study(tmp_path, axes=wider).ends()) == 8  # the wider one is the study's now


def test_a_run_that_fails_ends_its_case_with_the_reason_and_the_others_go_on(tmp_path):
    def objective(mapping, *, folder, on_epoch, stop):
        constraint = mapping["network"]["constraint"]
        if constraint == "Unitary" and mapping["seed"] == 0:
            raise RuntimeError("out of\nmemory")
        if constraint == "Unitary":
            return record([{**epoch_scores(0.5, 1), "val_metric": math.nan}])
        reached = train(mapping, folder=folder, on_epoch=on_epoch, stop=stop)
        return dataclasses.replace(reached, failure="the loss is not finite" if mapping["seed"] else None)

    one = open_study(tmp_path, axes=SMALL)
    Worker(one, objective, tmp_path / "runs").work()
    failures = [one.ends()[case.key].user_attrs["failure"] for case in one.cases]
    assert failures == [None, "RuntimeError: out of memory", "the loss is not finite", "the validation metric is nan"]
    assert len(list(tmp_path.glob("runs/*/error.txt"))) == 1
    assert [run.failure for run in gather(one).runs] == failures


def test_an_error_of_the_system_is_no_failure_of_the_case(tmp_path):
    def objective(mapping, *, folder, on_epoch, stop):
        raise OSError(28, "No space left on device")

    one = open_study(tmp_path, axes=SMALL)
    with pytest.raises(OSError, match="No space"):
        Worker(one, objective, tmp_path / "runs").work()
    assert not one.ends()
    Worker(one, train, tmp_path / "runs").work()
    assert len(one.ends()) == 4


def test_a_worker_that_is_stopped_leaves_its_case_to_the_next(tmp_path):
    requests = []

    def objective(mapping, **options):
        requests.extend([True] * (mapping["network"]["constraint"] == "Unitary"))
        return train(mapping, **options)

    one = open_study(tmp_path, axes=SMALL)
    with pytest.raises(StopRequested):
        Worker(one, objective, tmp_path / "runs", StopSignal(lambda: bool(requests))).work()
    assert len(one.ends()) == 1
    Worker(one, train, tmp_path / "runs").work()
    done = [path.read_text().split()[::2] for path in tmp_path.glob("runs/*/done.txt")]
    assert done == [["1", "2", "3", "4"]] * 4  # the stopped one too: its first epoch was not run again


@pytest.mark.parametrize("last", ["pruned", "failed", "failed at once"])
def test_a_resumed_case_ends_with_its_whole_history(last, tmp_path, monkeypatch):
    requests = []

    def objective(mapping, *, folder, on_epoch, stop):
        path = folder / LAST
        history = read_checkpoint(path)[RUN]["history"] if path.exists() else []
        if history and last == "failed at once":
            raise RuntimeError("out of memory")
        for epoch in range(len(history) + 1, 5):
            history.append(epoch_scores(0.5, epoch))
            folder.mkdir(parents=True, exist_ok=True)
            write_checkpoint(path, {RUN: {"format": 2, "history": history}})
            if epoch == 3 and last == "failed":
                raise RuntimeError("out of memory")
            on_epoch(history[-1])
            requests.extend([True] * (epoch == 2))
            if stop.requested:
                return record(history, stopped=True)
        return record(history)

    one = open_study(tmp_path, axes={"network.constraint": ["Orthogonal"]}, seeds=[0])
    with pytest.raises(StopRequested):
        Worker(one, objective, tmp_path / "runs", StopSignal(lambda: bool(requests))).work()
    if last == "pruned":
        monkeypatch.setattr(one, "report", lambda attempt, epoch, value: True)
    Worker(one, objective, tmp_path / "runs").work()
    (trial,) = one.ends().values()
    epochs = {"pruned": [1, 2, 3], "failed": [1, 2, 3], "failed at once": [1, 2]}[last]
    assert [epoch["epoch"] for epoch in trial.user_attrs["record"]["history"]] == epochs
    (run,) = gather(one).runs
    assert run.epochs == len(epochs) and run.seconds == pytest.approx(0.2 * len(epochs))


def test_pruning_ends_what_is_below_the_median_and_only_where_it_is_asked_for(tmp_path):
    def objective(mapping, *, folder, on_epoch, stop):
        top = 0.9 if mapping["network"]["hidden_size"] < 8 else 0.5
        history = []
        for epoch in range(1, 5):
            history.append(epoch_scores(top, epoch))
            on_epoch(history[-1])
        return record(history)

    for pruning in (True, False):
        grid = Grid(BASE, {"network.hidden_size": [2, 3, 4, 5, 6, 7, 8, 9]}, pruning=pruning)
        one = open_study(tmp_path, axes=grid, name=f"pruning {pruning}")
        Worker(one, objective, tmp_path / "runs").work()
        states = [one.ends()[case.key].state.name for case in one.cases]
        assert states == ["COMPLETE"] * 6 + ["PRUNED" if pruning else "COMPLETE"] * 2


def test_a_study_keeps_what_reports_say_of_the_task(tmp_path):
    assert open_study(tmp_path, axes=SMALL).about == ABOUT


def test_a_process_that_is_gone_or_a_zombie_is_dead_and_this_one_is_not():
    script = "from manifold_rnn.study import liveness; print(liveness.identity(), flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        other = child.stdout.readline().strip()
        assert not liveness.is_known_dead(other)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
        assert liveness.is_known_dead(other)
    assert liveness.is_known_dead(other)
    me = liveness.identity()
    assert not liveness.is_known_dead(me)
    liveness.remove_identity()
    assert liveness.identity() != me and not liveness.is_known_dead(me)  # as that of another machine
    liveness.remove_identity()
    os.unlink(other)
