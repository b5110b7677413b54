"""The page on error messages: each example raises an error of the kind that it is about."""

import importlib
import re
import sys

import pytest
from support import ROOT

from manifold_rnn import errors

pytest.importorskip("lightning")
pytest.importorskip("docutils")
PAGE = ROOT / "docs" / "guide" / "troubleshooting.rst"
sys.path.append(str(ROOT / "docs"))
error_messages = importlib.import_module("error_messages")
EXAMPLES = error_messages.examples(PAGE)
OF_TORCH = ("RuntimeError: Error(s) in loading state_dict", "KeyError: \"attribute 'weight' already exists\"")


def test_the_page_has_examples():
    assert len(EXAMPLES) > 40


@pytest.mark.parametrize("code", EXAMPLES, ids=lambda code: code.splitlines()[-1][:60])
def test_the_example_has_the_message_of_an_error_of_this_package(code):
    message = error_messages.message_of(code)
    if code.startswith(error_messages.COMMAND):
        assert message.startswith("manifold-rnn: error: ") and "\n" not in message
    elif not message.startswith(OF_TORCH):
        kind = re.match(r"(\w+): ", message)[1]
        assert kind in errors.__all__, message


def test_an_example_without_an_error_is_refused():
    with pytest.raises(LookupError, match="raises no error"):
        error_messages.message_of("torch.eye(2)")
