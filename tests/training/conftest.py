"""A run that has ended, and a copy of it."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    from support.run_cases import VALUES, train

    folder = tmp_path_factory.mktemp("whole") / "run"
    train(VALUES, folder)
    return folder


@pytest.fixture
def copied(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run"))
