"""Imports in front of the examples of docstrings, so that a reader can paste them, and the test runs what is shown."""

import re

IMPORTS = {r"\btorch\.": ">>> import torch", r"\bmr\.": ">>> import manifold_rnn as mr"}


def insert(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Insert what the examples of a docstring use and do not import, before their first line of code."""
    code = [k for k, line in enumerate(lines) if re.match(r"\s*(>>>|\.\.\.) ", line)]
    if not code:
        return
    text = "\n".join(lines[k] for k in code)
    first = lines[code[0]]
    indent = first[: len(first) - len(first.lstrip())]
    missing = [line for used, line in IMPORTS.items() if re.search(used, text) and line not in text]
    lines[code[0] : code[0]] = [indent + line for line in missing]
