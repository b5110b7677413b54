"""What every docstring example finds: `torch`, `mr` and the same random numbers on each run; and the quick tests."""

import importlib.util
from collections import defaultdict
from typing import Any

import pytest
import torch

import manifold_rnn

collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["manifold_rnn/nn/scan/elman/triton/[a-z]*.py"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cases", type=int, metavar="N", help="run at most N cases of each test, from the first to the last"
    )


@pytest.hookimpl(trylast=True)  # after the slow ones are left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    most = config.getoption("cases")
    if most is None:
        return
    cases = defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item)
    kept = {own[k * (len(own) - 1) // max(most - 1, 1)] for own in cases.values() for k in range(most)}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


@pytest.fixture(autouse=True)
def _example_namespace(doctest_namespace: dict[str, Any]) -> None:
    torch.manual_seed(0)
    doctest_namespace.update(torch=torch, mr=manifold_rnn)
