"""Measured numbers for the pages: each becomes a substitution such as `|cayley cost 128|`."""

import json
from pathlib import Path


def substitutions(path: Path) -> str:
    """Return reStructuredText that defines one substitution for each number of the benchmark's result."""
    result = json.loads(path.read_text())
    lines = [f".. |measured {key}| replace:: {value}" for key, value in result["settings"].items()]
    for retraction, numbers in result["retractions"].items():
        lines += [f".. |{retraction} {key}| replace:: {value}" for key, value in numbers.items()]
    return "\n".join(lines) + "\n"


def peers_table(path: Path, into: Path) -> None:
    """Write reStructuredText of the steps of this package and of others, in products of the same size."""
    table = json.loads(path.read_text())["peers"]
    shapes = list(table)
    jobs = [name for name in table[shapes[0]] if name != "matmul" and not name.startswith(("faster", "to one"))]
    lines = [".. list-table::", "   :header-rows: 1", "", "   * - step", *(f"     - {shape}" for shape in shapes)]
    for job in jobs:
        lines += [f"   * - {job}", *(f"     - {_short(table[shape][job])}" for shape in shapes)]
    into.parent.mkdir(parents=True, exist_ok=True)
    into.write_text("\n".join(lines) + "\n")


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
