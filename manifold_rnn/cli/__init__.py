"""The command ``manifold-rnn`` (extra ``train``). Each subcommand imports its dependencies only when it runs.

>>> import contextlib, io
>>> with contextlib.redirect_stderr(io.StringIO()) as errors:
...     status = mr.cli.main(["fit", "--network.cell", "LSTN"])
>>> assert status == 2 and "task" in errors.getvalue()
"""

from .main import main

__all__ = ["main"]
