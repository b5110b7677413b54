"""The hand-made faults of `benchmarks/mutations.py` fit the code as it is."""

import importlib.util
import sys

import pytest
from support import ROOT


def _faults():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location("mutations", ROOT / "benchmarks" / "mutations.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["mutations"] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return module.FAULTS


@pytest.mark.parametrize("fault", _faults(), ids=lambda fault: fault.name)
def test_a_fault_replaces_one_piece_and_names_tests(fault):
    assert (ROOT / "manifold_rnn" / fault.file).read_text().count(fault.old) == 1 and fault.old != fault.new
    assert (ROOT / fault.tests[0]).exists()
