"""Processes that share a study, one of them killed."""

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


def test_three_workers_run_every_case_exactly_once_though_one_is_killed(url, tmp_path):
    assert fork_workers(tmp_path, url, 3).wait(timeout=1200) == 0

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
    for run in runs.values():  # in order, none lost and none repeated
        assert [epoch for epoch, _ in run] == [1, 2, 3, 4]
