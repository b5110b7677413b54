"""The index of the API: one line for each public name, grouped by what it is used for."""

import importlib
import inspect
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import api_pages

# Title, then patterns of full names without the package. The longest pattern of a name decides its group.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Constraining weights": (
        *(f"constraints.{name}" for name in ("constrain", "constrain_matching", "set_retraction", "release", "cached")),
        *(f"constraints.{name}" for name in ("scope", "load_checked", "degrees_of_freedom", "parametrizations")),
    ),
    "Manifolds": ("manifolds.*",),
    "Structured constraints": ("constraints.*",),
    "Adapters": ("constraints.*Adapter", "constraints.adapter_state_dict", "interop.peft.*"),
    "Retractions": ("retractions.*",),
    "Optimizers and averages": ("optim.*",),
    "Recurrent layers": ("nn.Layer", "nn.RNN", "nn.LSTM", "nn.GRU"),
    "Cells": ("nn.cells.*",),
    "Nonlinearities and readouts": ("nn.*",),
    "Initialization": ("nn.init.*",),
    "Scans": ("nn.scan.*",),
    "Published networks": ("zoo.*",),
    "Tasks": ("tasks.*",),
    "Training runs": ("training.*",),
    "Comparisons and the command line": ("study.*", "cli.*"),
    "Diagnostics": ("diagnostics.[a-z]*",),
    "Results of diagnostics": ("diagnostics.*",),
    "Online learning": ("online.*",),
    "Pruning units": ("nn.UnitGates", "nn.gate_units", "nn.l0_penalty", "nn.open_units", "nn.prune"),
    "Searched trees": ("nn.trees.*",),
    "Moments": ("moments.*",),
    "Writing your own classes": (
        *("manifolds.Manifold", "manifolds.MatrixManifold", "manifolds.MatrixGroup", "manifolds.OrthonormalColumns"),
        *(
            "manifolds.VectorManifold",
            "manifolds.FixedNorm",
            "manifolds.Region",
            "manifolds.Parts",
            "manifolds.*Layout",
        ),
        *("retractions.Retraction", "constraints.Constraint", "constraints.Parametrization", "constraints.Assembled"),
        *("constraints.Trivialization", "constraints.Update", "constraints.trivialize", "nn.cells.Cell"),
        *("optim.RiemannianOptimizer", "tasks.Task", "tasks.OneHot", "tasks.Published", "tasks.Score", "tasks.Splits"),
        "testing.*",
    ),
    "Other libraries": ("interop.*",),
    "Matrix functions": ("linalg.*",),
    "Errors": ("errors.*",),
}


def groups() -> dict[str, dict[str, str]]:
    """Map each group to its names: the full name of the page, and the shortest name that a user can write."""
    shortest: dict[str, str] = {}
    for full, page in sorted(api_pages.public_names().items(), key=lambda item: (item[0].count("."), item[0])):
        shortest.setdefault(page, full.replace(api_pages.ROOT, "mr", 1))
    found: dict[str, dict[str, str]] = {title: {} for title in GROUPS}
    for page, name in sorted(shortest.items(), key=lambda item: item[0].lower()):
        found[_group_of(page.removeprefix(f"{api_pages.ROOT}."))][page] = name
    return found


def write(path: Path) -> None:
    """Write the table of each group."""
    text = ""
    for title, names in groups().items():
        rows = "".join(f"   * - :obj:`{name} <{page}>`\n     - {_summary(page)}\n" for page, name in names.items())
        text += f"{title}\n{'-' * len(title)}\n\n.. list-table::\n   :widths: 38 62\n\n{rows}\n"
    api_pages.write_if_new(path, text)


def _group_of(name: str) -> str:
    matches = [(len(p), title) for title, patterns in GROUPS.items() for p in patterns if fnmatchcase(name, p)]
    if not matches:
        raise LookupError(f"{name} has no group in docs/api_index.py. Add a pattern for it to GROUPS.")
    return max(matches)[1]


def _summary(page: str) -> str:
    """The first paragraph of the docstring, with names in single backticks as literals."""
    module, _, name = page.rpartition(".")
    paragraph = inspect.getdoc(getattr(importlib.import_module(module), name)).split("\n\n")[0]
    text = " ".join(paragraph.split())
    return re.sub(r":[\w:]+:`[^`]*`|``.*?``|`([^`]+)`", lambda m: f"``{m[1]}``" if m[1] else m[0], text)
