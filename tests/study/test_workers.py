"""Processes that share a study, one of them killed at a moment of no choice of its own."""

import os
import signal
import time
from contextlib import closing

import pytest

pytest.importorskip("optuna")
from support.study_cases import attempts, fork_workers, open_study, postgresql

CASES = 12


@pytest.fixture(scope="module")
def server():
    with postgresql() as url:
        yield url


@pytest.fixture(params=["journal", pytest.param("SQLite", marks=pytest.mark.slow), "PostgreSQL"])
def url(request, tmp_path):
    if request.param == "PostgreSQL":
        return request.getfixturevalue("server")
    return None if request.param == "journal" else f"sqlite:///{tmp_path / 'study.db'}"


def epochs(folder):
    """Which epochs each run has trained, and which processes did."""
    runs = {}
    for path in folder.glob("runs/*/done.txt"):
        lines = [line.split() for line in path.read_text().splitlines()]
        runs[path.parent.name] = [(int(epoch), int(process)) for epoch, process in lines]
    return runs


def kill_in_the_middle(folder, worker):
    """Kill a worker that has begun a run and not ended it."""
    until = time.monotonic() + 1200
    while time.monotonic() < until:
        if any(lines[-1][1] == worker and lines[-1][0] in (1, 2) for lines in epochs(folder).values() if lines):
            os.kill(worker, signal.SIGKILL)
            return
        time.sleep(0.002)
    raise AssertionError("the worker began no run")


def test_three_workers_run_every_case_exactly_once_though_one_is_killed(url, tmp_path):
    workers = fork_workers(tmp_path, url, 3)
    killed = int(workers.stdout.readline().split()[0])
    kill_in_the_middle(tmp_path, killed)
    assert workers.wait(timeout=1200) == 0
    workers.stdout.close()

    with closing(open_study(tmp_path, url)) as study:
        by_case = attempts(study)
        assert len(study.ends()) == len(by_case) == CASES
    assert all(ends[-1] == ("COMPLETE", "own") for ends in by_case.values())
    earlier = [end for ends in by_case.values() for end in ends[:-1]]
    assert earlier == [("FAIL", "lost")]
    runs = epochs(tmp_path)
    assert len(runs) == CASES
    resumed = [run for run in runs.values() if len({process for _, process in run}) > 1]
    assert len(resumed) == 1
    for run in runs.values():  # in order, and none lost; the one in which the worker died may be trained again
        assert sorted({epoch for epoch, _ in run}) == [1, 2, 3, 4] and len(run) <= 5
    assert len({process for run in runs.values() for _, process in run}) == 3
