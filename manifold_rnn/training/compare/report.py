"""Writes what a study has found: tables, pictures, and the report, each file at once."""

import json
from pathlib import Path

from ...errors import OptionError
from ..files import replacing
from ..report import write_json
from .figures import draw, for_file
from .page import page
from .results import Results
from .tables import comma_separated, document, markdown

REPORT, RESULTS = "report.html", "results.json"


def write_report(results: Results, folder: Path) -> None:
    """Write ``report.html``, ``table.md``, ``table.csv``, ``results.json``, and the pictures as SVG."""
    figures = draw(results)
    texts = {REPORT: page(results, figures), "table.md": markdown(results), "table.csv": comma_separated(results)}
    texts |= {f"{name}.svg": for_file(figure, f"{name} of {results.study}") for name, figure in figures.items()}
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    write_json(folder / RESULTS, document(results))


def require_own(folder: Path, study: str) -> None:
    """Raise `OptionError` if a folder has the results of another study, or of something else."""
    path = folder / RESULTS
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["study"]
    except (ValueError, KeyError, TypeError):
        found = None
    if found != study:
        of = f"of the study '{found}'" if found else "of something else"
        raise OptionError(f"--output needs a folder for '{study}' alone. Got '{folder}' with results {of}.")
