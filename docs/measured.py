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
