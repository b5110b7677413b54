"""The examples of the guide."""

import doctest

import pytest
from support import ROOT

pytest.importorskip("lightning")
import torch

import manifold_rnn as mr


@pytest.mark.filterwarnings("ignore")  # Lightning's advice to users
@pytest.mark.parametrize("page", ["runs", "comparisons"])
def test_the_examples_of_the_guide_run(page):
    torch.manual_seed(0)
    path = str(ROOT / "docs" / "guide" / f"{page}.rst")
    failed, count = doctest.testfile(path, module_relative=False, globs={"torch": torch, "mr": mr})
    assert count >= 4 and not failed
