"""The report of a study: tables, pictures and a page, each file written at once."""

import json
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ...errors import OptionError
from ...training.folder import replacing
from ...training.record import write_json
from ..results import Results
from .figures import draw, for_file
from .page import page
from .tables import cells, comma_separated, document, headers, markdown

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


def print_table(results: Results, console: Console) -> None:
    """Print the main columns of the table, the best combination in bold, and why runs failed."""
    baseline = results.about["baseline"]
    caption = f"baseline: {results.shown(baseline['metric'])}" if baseline else None
    table = Table(title=results.about["task"], caption=caption, box=box.SIMPLE_HEAD)
    names, varying = headers(results), len(results.keys)
    left_out = {
        "best seed",
        "training",
        f"validation {results.about['metric']}",
        *(["runs"] if len(results.grid.seeds) == 1 else []),
    }
    columns = [place for place, name in enumerate(names) if place < varying or name not in left_out]
    for place in columns:
        table.add_column(names[place], justify="left" if place < varying else "right", overflow="fold")
    for number, row in enumerate(results.rows):
        texts = cells(results, row)
        table.add_row(*(texts[k] for k in columns), style="bold" if number == 0 and row.complete else "")
    if results.rows:
        console.print(table, soft_wrap=False)
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
