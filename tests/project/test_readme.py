import re
import subprocess

import pytest
import torch
from support import ROOT

README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"^([^\n]+)\n+```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"```sh\n(.*?)\n```", README, flags=re.DOTALL)


@pytest.mark.parametrize("code", [code for _, code in SNIPPETS], ids=[text[:40] for text, _ in SNIPPETS])
def test_snippet_runs(code):
    torch.manual_seed(0)
    exec(compile(code, "README.md", "exec"), {})


def test_there_are_snippets_to_run():
    assert len(SNIPPETS) >= 4


def test_each_command_is_one_line_that_bash_can_parse():
    assert len(COMMANDS) == 2
    for command in COMMANDS:
        assert "\n" not in command
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_the_check_of_a_change_runs_the_test_command_to_the_letter():
    assert COMMANDS[1] in (ROOT / ".ci" / "run").read_text().splitlines()
