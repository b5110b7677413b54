"""What every docstring example finds: `torch`, `mr` and the same random numbers on each run."""

import importlib.util
from typing import Any

import pytest
import torch

import manifold_rnn

collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["manifold_rnn/nn/scan/elman/triton/[a-z]*.py"]


@pytest.fixture(autouse=True)
def _example_namespace(doctest_namespace: dict[str, Any]) -> None:
    torch.manual_seed(0)
    doctest_namespace.update(torch=torch, mr=manifold_rnn)
