"""The table of a comparison as Markdown, CSV and JSON."""

import csv
import io
from dataclasses import asdict

from ... import __version__
from ...training.values import Values
from ..grid import shown_value
from ..results import Results, Row, shown_duration


def headers(results: Results) -> list[str]:
    """Return the headings of the table's columns."""
    metric = results.about["metric"]
    scores = [f"test {metric}", "best seed", f"validation {metric}"]
    measured = ["time per step", "training", "parameters", "units", "defect", "runs"]
    return [*results.titles.values(), *scores, *measured]


def cells(results: Results, row: Row) -> list[str]:
    """Return the texts of a row."""
    return [
        *(shown_value(row.choices.get(key)) for key in results.keys),
        results.shown_spread(row.test),
        results.shown(row.test.best),
        results.shown_spread(row.validation),
        shown_duration(row.seconds_per_step),
        shown_duration(row.seconds),
        "-" if row.parameters is None else f"{row.parameters:,}",
        "-" if row.hidden_size is None else str(row.hidden_size),
        "-" if row.defect is None else f"{row.defect:.0e}",
        f"{len(row.complete)} of {len(results.grid.seeds)}",
    ]


def numbers(results: Results, row: Row) -> Values:
    """Return a row as plain values, by dotted keys and the names of columns."""
    return {
        **{key: row.choices.get(key) for key in results.keys},
        **{f"test_{key}": value for key, value in asdict(row.test).items()},
        **{f"validation_{key}": value for key, value in asdict(row.validation).items()},
        "seconds_per_step": row.seconds_per_step,
        "seconds": row.seconds,
        "parameters": row.parameters,
        "hidden_size": row.hidden_size,
        "defect": row.defect,
        "complete": len(row.complete),
        "runs": len(row.runs),
        "remark": row.remark,
    }


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
        for row in rows:
            writer.writerow({k: shown_value(v) if isinstance(v, (dict, list)) else v for k, v in row.items()})
    return stream.getvalue()


def document(results: Results) -> Values:
    """Return everything, for JSON: the rows, and every run with its history."""
    return {
        "study": results.study,
        "about": results.about,
        "grid": results.grid.plain(),
        "cases": results.cases,
        "version": __version__,
        "rows": [numbers(results, row) for row in results.rows],
        "runs": [{"state": run.state, "validation": run.validation, **run.as_dict()} for run in results.runs],
    }
