import contextlib
import io
import re
import subprocess

import pytest
import torch
from support import ROOT

README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"^([^\n]+)\n+```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"```sh\n(.*?)\n```", README, flags=re.DOTALL)
OUTPUT = re.compile(r"^print\(.*\)(?:  |\n)# (.*)$", flags=re.MULTILINE)  # the comment after a print, or below it


@pytest.mark.parametrize("code", [code for _, code in SNIPPETS], ids=[text[:40] for text, _ in SNIPPETS])
def test_snippet_prints_the_output_that_its_comments_show(code):
    torch.manual_seed(0)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    lines = printed.getvalue().splitlines()
    shown = OUTPUT.findall(code)
    assert len(shown) == len(lines) == code.count("print(")
    for comment, line in zip(shown, lines, strict=True):
        assert comment == line or comment.startswith(f"{line}: "), (comment, line)


def test_there_are_snippets_to_run():
    assert len(SNIPPETS) >= 4


def test_each_snippet_shows_output_instead_of_asserting():
    for _, code in SNIPPETS:
        assert "print(" in code and "assert " not in code


def test_each_row_of_a_table_is_a_line():
    rows = [line for line in README.splitlines() if line.startswith("|")]
    assert len(rows) > 20 and all(line.endswith("|") and "| |" not in line for line in rows)


def test_each_command_is_one_line_that_bash_can_parse():
    assert len(COMMANDS) == 2
    for command in COMMANDS:
        assert "\n" not in command
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_the_check_of_a_change_runs_the_test_command_to_the_letter():
    assert COMMANDS[1] in (ROOT / ".ci" / "run").read_text().splitlines()
