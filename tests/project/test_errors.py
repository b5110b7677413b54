"""Every refusal of the package: its kind, what it says, and that it leaves every tensor as it was."""

import re

import pytest
import torch
from support.error_cases import ROWS, Scene

from manifold_rnn import errors
from manifold_rnn.errors import NonFiniteError

FUZZED = [name for name, row in ROWS.items() if row.kind is NonFiniteError]


def refuse(row):
    scene = Scene()
    before = scene.snapshot()
    with pytest.raises(errors.ManifoldError) as caught:
        row.act(scene)
    after = scene.snapshot()
    assert before.keys() == after.keys()
    for name, (kind, value) in before.items():
        assert after[name][0] is kind and torch.equal(after[name][1], value), name
    return caught.value


@pytest.mark.parametrize("name", ROWS)
def test_is_refused_by_its_kind_with_a_message_that_helps(name):
    row = ROWS[name]
    error = refuse(row)
    message = str(error)
    assert type(error) is row.kind
    assert re.search(row.message, message, re.DOTALL), message
    assert len(message) <= 400 and "tensor(" not in message
    assert message.rstrip().endswith(".") and len(re.split(r"[.]\s", message)) >= 2, message


@pytest.mark.parametrize("name", FUZZED)
def test_wherever_the_entry_is_that_is_not_finite(name):
    for seed in range(20):
        scene = Scene()
        scene.generator.manual_seed(seed)
        with pytest.raises(NonFiniteError):
            ROWS[name].act(scene)


def test_every_public_error_has_a_row():
    kinds = {row.kind for row in ROWS.values()} | {errors.ManifoldError}
    assert kinds == {getattr(errors, name) for name in errors.__all__}
    assert len(ROWS) >= 60


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_also_the_built_in_one_that_a_reader_expects(name):
    kind = getattr(errors, name)
    assert issubclass(kind, errors.ManifoldError)
    assert name == "ManifoldError" or any(base.__module__ == "builtins" for base in kind.__bases__)
