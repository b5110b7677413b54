"""What docstrings show in addition: imports in front of examples, and the numbers of a report."""

import dataclasses
import inspect
import re

from manifold_rnn.testing import Report

IMPORTS = {r"\btorch\.": ">>> import torch", r"\bmr\.": ">>> import manifold_rnn as mr"}


def insert(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Insert what the examples of a docstring use and do not import, before their first line of code.

    A reader can then paste them, and the test runs what is shown. A report describes its numbers in its fields.
    """
    if inspect.isclass(obj) and issubclass(obj, Report) and obj is not Report:
        fields = [f for f in dataclasses.fields(obj) if "meaning" in f.metadata]
        described = [
            line for f in fields for line in (f"{f.name} : float", "    " + f.metadata["meaning"].replace("|", r"\|"))
        ]
        heading = [k for k in range(len(lines)) if lines[k] == "Examples"]
        own = [] if "Attributes" in lines else ["Attributes", "----------"]
        lines[heading[0] - (not own) : heading[0] - (not own)] = [*own, *described, *([""] if own else [])]
    code = [k for k, line in enumerate(lines) if re.match(r"\s*(>>>|\.\.\.) ", line)]
    if not code:
        return
    text = "\n".join(lines[k] for k in code)
    first = lines[code[0]]
    indent = first[: len(first) - len(first.lstrip())]
    missing = [line for used, line in IMPORTS.items() if re.search(used, text) and line not in text]
    lines[code[0] : code[0]] = [indent + line for line in missing]
