"""The directive ``error-message``: code that raises an error, and below it the message that it has in this version.

The content is Python code with `torch` and `mr`, or one command that begins with ``$ manifold-rnn``.
"""

import contextlib
import io
import re
import shlex
import tempfile
from pathlib import Path

import torch
from docutils import nodes
from docutils.parsers.rst import Directive

import manifold_rnn as mr

COMMAND = "$ manifold-rnn "
BLOCK = re.compile(r"^\.\. error-message::\n\n((?:   .*\n|\n)+)", flags=re.MULTILINE)


class ErrorMessage(Directive):
    """Show the content, and the message of the error that it raises."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        code = "\n".join(self.content)
        language = "console" if code.startswith(COMMAND) else "python"
        message = message_of(code)
        return [
            nodes.literal_block(code, code, language=language),
            nodes.literal_block(message, message, language="none"),
        ]


def examples(page: Path) -> list[str]:
    """Return the content of every directive of a page."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return ["\n".join(line[3:] for line in block.splitlines()).strip() for block in found]


def message_of(code: str) -> str:
    """Run the code and return the message of its error; raises `LookupError` if there is none."""
    if code.startswith(COMMAND):
        return _of_command(shlex.split(code.removeprefix(COMMAND)))
    state = torch.get_rng_state()
    try:
        exec(compile(code, "example", "exec"), {"torch": torch, "mr": mr})
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip(chr(10))}"
    finally:
        torch.set_rng_state(state)
    raise LookupError(f"This example raises no error:\n{code}")


def _of_command(arguments: list[str]) -> str:
    from manifold_rnn.cli import main

    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stderr(printed):
        status = main(arguments)
    if status != 2:
        raise LookupError(f"This command exits with status {status} instead of 2: {shlex.join(arguments)}")
    return printed.getvalue().strip()


def setup(app: object) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("error-message", ErrorMessage)
    return {"parallel_read_safe": False}
