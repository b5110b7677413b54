"""The table of a comparison as Markdown, CSV and JSON."""

import csv
import io
from collections.abc import Callable

from rich import box
from rich.table import Table

from ... import __version__
from ...training.values import Value, Values
from ..grid import shown_value
from ..results import Results, Row, shown_duration

# The heading of each column, its key in files, and what it shows; the columns of what varies come first.
_COLUMNS: list[tuple[str, str, Callable[[Results, Row], str]]] = [
    ("test {metric}", "test_mean", lambda results, row: results.shown_spread(row.test_mean, row.test_deviation)),
    ("best seed", "test_best", lambda results, row: results.shown(row.test_best)),
    (
        "validation {metric}",
        "validation_mean",
        lambda results, row: results.shown_spread(row.validation_mean, row.validation_deviation),
    ),
    ("time per step", "seconds_per_step", lambda results, row: shown_duration(row.seconds_per_step)),
    ("training", "seconds", lambda results, row: shown_duration(row.seconds)),
    ("parameters", "parameters", lambda results, row: "-" if row.parameters is None else f"{row.parameters:,}"),
    ("units", "hidden_size", lambda results, row: str(row.hidden_size or "-")),
    ("defect", "defect", lambda results, row: "-" if row.defect is None else f"{row.defect:.0e}"),
    ("runs", "complete", lambda results, row: f"{len(row.complete)} of {len(results.grid.seeds)}"),
]

_DETAILS = ("test_best", "validation_mean", "seconds")


def headers(results: Results) -> list[str]:
    """Return the headings of the table's columns."""
    return [*results.titles.values(), *(name.format(metric=results.about["metric"]) for name, _, _ in _COLUMNS)]


def cells(results: Results, row: Row) -> list[str]:
    """Return the texts of a row."""
    varying = [shown_value(row.choices.get(key)) for key in results.keys]
    return [*varying, *(show(results, row) for _, _, show in _COLUMNS)]


def sort_keys(results: Results, row: Row) -> list[str]:
    """Return the values by which a reader may sort the columns, as texts."""
    values = numbers(results, row)
    varying = [shown_value(values[key]) for key in results.keys]
    return [*varying, *("" if values[key] is None else str(values[key]) for _, key, _ in _COLUMNS)]


def numbers(results: Results, row: Row) -> Values:
    """Return a row as plain values, by dotted keys and the names of columns."""
    measured = {key: value for key, value in vars(row).items() if key not in ("label", "choices")}
    counts = {"complete": len(row.complete), "runs": len(row.runs)}
    return {key: row.choices.get(key) for key in results.keys} | measured | counts


def printed_table(results: Results) -> Table:
    """Return the main columns of the table for a terminal: the best combination in bold."""
    baseline = results.about["baseline"]
    caption = f"baseline: {results.shown(baseline['metric'])}" if baseline else None
    table = Table(title=results.about["task"], caption=caption, box=box.SIMPLE_HEAD)
    varying, left_out = len(results.keys), _DETAILS if len(results.grid.seeds) > 1 else (*_DETAILS, "complete")
    shown = [*range(varying), *(varying + k for k, (_, key, _) in enumerate(_COLUMNS) if key not in left_out)]
    for place in shown:
        table.add_column(headers(results)[place], justify="left" if place < varying else "right", overflow="fold")
    for row in results.rows:
        texts, is_best = cells(results, row), row is results.rows[0] and bool(row.complete)
        table.add_row(*(texts[place] for place in shown), style="bold" if is_best else "")
    return table


def markdown(results: Results) -> str:
    """Return the table as Markdown: the best combination in bold, remarks below."""
    head = headers(results)
    varying = len(results.keys)
    lines = [head, [":--"] * varying + ["--:"] * (len(head) - varying)]
    for place, row in enumerate(results.rows):
        texts = [cell.replace("|", "\\|") for cell in cells(results, row)]
        lines.append([f"**{text}**" for text in texts] if place == 0 and row.complete else texts)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    remarks = "".join(f"\n- {row.label}: {row.remark}" for row in results.rows if row.remark)
    return f"{table}\n" + (f"{remarks}\n" if remarks else "")


def comma_separated(results: Results) -> str:
    """Return the table as CSV, with full precision."""
    stream = io.StringIO()
    rows = [numbers(results, row) for row in results.rows]
    if rows:
        writer = csv.DictWriter(stream, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _in_csv(value) for k, value in row.items()} for row in rows)
    return stream.getvalue()


def document(results: Results) -> Values:
    """Return everything, for JSON: the rows, and every run with its history."""
    return {
        **{"study": results.study, "about": results.about, "grid": results.grid.plain(), "cases": results.cases},
        "version": __version__,
        "rows": [numbers(results, row) for row in results.rows],
        "runs": [{"state": run.state, "validation": run.validation, **run.as_dict()} for run in results.runs],
    }


def _in_csv(value: Value) -> Value:
    return shown_value(value) if isinstance(value, (dict, list)) else value
