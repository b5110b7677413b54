"""The report of a study: tables, pictures and a page, each file written at once."""

import json
from pathlib import Path

from rich.console import Console

from ...errors import OptionError
from ...training.folder import replacing
from ...training.record import write_json
from ..results import Results
from .page import page
from .pictures import draw
from .tables import comma_separated, document, markdown, printed_table
from .theme import svg

REPORT, RESULTS = "report.html", "results.json"


def write_report(results: Results, folder: Path) -> None:
    """Write ``report.html``, ``table.md``, ``table.csv``, ``results.json``, and the pictures as SVG."""
    figures = draw(results)
    texts = {REPORT: page(results, figures), "table.md": markdown(results), "table.csv": comma_separated(results)}
    texts |= {
        f"{name}.svg": svg(figure, f"{name} of {results.study}", on_page=False) for name, figure in figures.items()
    }
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    write_json(folder / RESULTS, document(results))


def print_table(results: Results, console: Console) -> None:
    """Print the main columns of the table, the best combination in bold, and why runs failed."""
    if results.rows:
        console.print(printed_table(results), soft_wrap=False)
    for row in [row for row in results.rows if row.remark]:
        console.print(f"{row.label}: {row.remark}", style="yellow")


def require_own(folder: Path, study: str) -> None:
    """Raise `OptionError` if a folder has the results of another study, or of something else."""
    path = folder / RESULTS
    if not path.exists():
        return
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))["study"]
    except (ValueError, KeyError, TypeError):
        owner = None
    if owner != study:
        of = f"of the study '{owner}'" if owner else "of something else"
        raise OptionError(f"`output` needs a folder for '{study}' alone. Got '{folder}' with results {of}.")
