"""The table of a comparison: for a terminal and as Markdown, and with full precision as CSV and JSON."""

import csv
import io
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ... import __version__
from ..._pages import templates
from ...training.formats import KEY, TABLE
from ...training.values import Value, Values, presentable, without_secrets
from ..grid import shown_value
from ..results import Results, Row, shown_duration

TEMPLATES = templates(__package__)
TEMPLATES.filters["shown"] = presentable
TEMPLATES.filters["literal"] = lambda text: re.sub(r"([\\`*_\[\]<>#|~$&])", r"\\\1", text)  # in Markdown
_DETAILS = ("test_best", "validation_mean", "seconds")  # left out on a terminal, for lack of room


class Column(NamedTuple):
    """A column of the table: its heading, its key in files, and a function that formats a row."""

    title: str
    key: str
    show: Callable[[Row], str]


def columns(results: Results) -> list[Column]:
    """Return the columns of the table: first the settings that vary, then the measurements."""
    metric, shown, spread = results.about["metric"], results.shown, results.shown_spread
    return [
        *(Column(title, key, partial(_shown_choice, key)) for key, title in results.titles.items()),
        Column(f"test {metric}", "test_mean", lambda row: spread(row.test_mean, row.test_deviation)),
        Column("best seed", "test_best", lambda row: shown(row.test_best)),
        Column(
            f"validation {metric}", "validation_mean", lambda row: spread(row.validation_mean, row.validation_deviation)
        ),
        Column("time per step", "seconds_per_step", lambda row: shown_duration(row.seconds_per_step)),
        Column("training", "seconds", lambda row: shown_duration(row.seconds)),
        Column("parameters", "parameters", lambda row: "-" if row.parameters is None else f"{row.parameters:,}"),
        Column("units", "hidden_size", lambda row: str(row.hidden_size or "-")),
        Column("defect", "defect", lambda row: "-" if row.defect is None else f"{row.defect:.0e}"),
        Column("runs", "complete", lambda row: f"{len(row.complete)} of {len(results.grid.seeds)}"),
    ]


def numbers(results: Results, row: Row) -> Values:
    """Return a row as a mapping of dotted keys and column names to plain values."""
    measured = {key: value for key, value in vars(row).items() if key not in ("label", "choices")}
    counts = {"complete": len(row.complete), "runs": len(row.runs)}
    return {key: row.choices.get(key) for key in results.keys} | measured | counts


def print_table(results: Results, console: Console) -> None:
    """Print the main columns, with the best combination in bold, and the reasons of failed runs."""
    baseline = results.about["baseline"]
    caption = f"baseline: {results.shown(baseline['metric'])}" if baseline else None
    table = Table(title=Text(results.about["task"]), caption=caption, box=box.SIMPLE_HEAD)
    left_out = _DETAILS if len(results.grid.seeds) > 1 else (*_DETAILS, "complete")
    shown = [column for column in columns(results) if column.key not in left_out]
    for column in shown:
        table.add_column(Text(column.title), justify="left" if column.key in results.keys else "right", overflow="fold")
    for row in results.rows:
        is_best = row is results.rows[0] and bool(row.complete)
        table.add_row(*(Text(column.show(row)) for column in shown), style="bold" if is_best else "")
    if results.rows:
        console.print(table, soft_wrap=False)
    for row in [row for row in results.rows if row.remark]:
        console.print(Text(f"{row.label}: {row.remark}"), style="yellow")


def markdown(results: Results) -> str:
    """Return the table as Markdown, with the best combination in bold and remarks below."""
    return TEMPLATES.get_template("table.md").render(results=results, columns=columns(results))


def comma_separated(results: Results) -> str:
    """Return the table as CSV, with full precision."""
    stream = io.StringIO()
    rows = [numbers(results, row) for row in results.rows]
    if rows:
        writer = csv.DictWriter(stream, rows[0].keys(), lineterminator="\n")
        writer.writerow({key: _cell(key) for key in rows[0]})
        for row in rows:
            writer.writerow({key: _cell(value) for key, value in row.items()})
    return stream.getvalue()


def _cell(value: Value) -> Value:
    """The value of a CSV cell, escaped so that a spreadsheet does not read it as a formula."""
    text = shown_value(value) if isinstance(value, (str, dict, list)) else value
    return f"'{text}" if isinstance(text, str) and text.startswith(("=", "+", "-", "@")) else text


def document(results: Results) -> Values:
    """Return all results for JSON: the rows, and every run with its history."""
    content = {
        KEY: TABLE.current,
        **{"study": results.study, "about": results.about, "grid": results.grid.plain(), "cases": results.cases},
        "version": __version__,
        "rows": [numbers(results, row) for row in results.rows],
        "runs": [{"state": run.state, "validation": run.validation, **run.as_dict()} for run in results.runs],
    }
    return {key: _without_secrets(value) for key, value in content.items()}


def _without_secrets(value: Value) -> Value:
    if isinstance(value, Mapping):
        return {key: _without_secrets(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_secrets(entry) for entry in value]
    return without_secrets(value) if isinstance(value, str) else value


def _shown_choice(key: str, row: Row) -> str:
    return shown_value(row.choices.get(key))
