"""The report of a comparison as one HTML file, which loads nothing."""

from collections.abc import Iterator, Mapping
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import yaml  # type: ignore[import-untyped]
from matplotlib.figure import Figure

from ... import __version__
from ...training.record import FAILED
from ..case_names import shown_value
from ..results import Results, Row, shown_duration
from .figures import for_page
from .tables import cells, headers, numbers

_CAPTIONS = {
    "heatmap": "Mean ± standard deviation over the seeds, of the network with the lowest validation loss of each run. "
    "The frame is around the best by validation.",
    "curves": "Mean over the seeds; the band goes from the worst to the best of them.",
    "ranges": "A point for every run that is complete.",
    "time": "Left: until the end of training, at the mark. Right: a bar is a standard deviation over the seeds.",
    "eigenvalues": "Of the recurrent matrix: hollow before the first step, filled after the last one.",
}
_COLUMNS = ("test_mean", "test_best", "validation_mean", "seconds_per_step", "seconds", "parameters")
_COLUMNS += ("hidden_size", "defect", "complete")


def page(results: Results, figures: Mapping[str, Figure]) -> str:
    """Return the report as HTML."""
    task, metric = results.about["task"], results.about["metric"]
    return Template(_file("page.html")).substitute(
        title=escape(f"{results.study}: {task}"),
        style=_file("page.css"),
        script=_file("page.js"),
        eyebrow=escape(f"Comparison “{results.study}” · {task}"),
        heading=escape(f"{metric[:1].upper()}{metric[1:]} by {_series(results.titles.values())}"),
        lead=_lead(results),
        tiles="\n".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in _tiles(results)),
        sections="\n".join(_sections(results, figures)),
        footer=escape(f"manifold-rnn {__version__}. Everything is in this file; it loads nothing."),
    )


def _lead(results: Results) -> str:
    complete = [row for row in results.rows if row.complete]
    if not complete:
        return "No run is complete yet."
    best, metric = complete[0], escape(results.about["metric"])
    seeds = f" over {len(best.complete)} seeds" if len(best.complete) > 1 else ""
    text = (
        f"Best by validation: <strong>{escape(best.label)}</strong>, with a test {metric} of "
        f"<strong>{escape(results.shown_spread(best.test))}</strong>{seeds}."
    )
    near = [row for row in complete[1:] if _near(best, row)]
    if near:
        more = [f"{len(near) - 3} more"] if len(near) > 3 else []
        text += f" The seeds do not tell it apart from {escape(_series([row.label for row in near[:3]] + more))}."
    return text


def _near(best: Row, row: Row) -> bool:
    """Whether two means differ by less than the deviations of both together."""
    if best.validation.mean is None or row.validation.mean is None:
        return False
    return abs(best.validation.mean - row.validation.mean) <= sum(r.validation.deviation or 0.0 for r in (best, row))


def _tiles(results: Results) -> Iterator[tuple[str, str]]:
    complete = [row for row in results.rows if row.complete]
    if complete:
        best = complete[0]
        yield f"test {results.about['metric']}", results.shown_spread(best.test)
        yield f"validation {results.about['metric']}", results.shown_spread(best.validation)
        yield "time per step", shown_duration(best.seconds_per_step)
        yield "parameters", "-" if best.parameters is None else f"{best.parameters:,}"
    yield "runs ended", f"{len(results.runs)} of {results.cases}"
    yield "training, all runs", shown_duration(sum(run.seconds for run in results.runs))


def _sections(results: Results, figures: Mapping[str, Figure]) -> Iterator[str]:
    metric = results.about["metric"]
    titles = {
        "heatmap": f"Test {metric} by {_series(results.titles[key] for key in results.listed)}",
        "curves": "Learning curves",
        "ranges": "What the search drew",
        "eigenvalues": "Eigenvalues",
        "time": f"{metric[:1].upper()}{metric[1:]} against time",
    }
    for name, figure in figures.items():
        picture = f"{for_page(figure, titles[name])}<figcaption>{_CAPTIONS[name]}</figcaption>"
        yield f"<section><h2>{escape(titles[name])}</h2><figure>{picture}</figure></section>"
    yield _table(results)
    yield from _failures(results)
    yield (
        "<details><summary>What was run</summary>"
        f"<pre>{escape(yaml.safe_dump(_stated(results), sort_keys=False, allow_unicode=True))}</pre></details>"
    )


def _table(results: Results) -> str:
    text = len(results.keys)
    kinds = [' class="text"'] * text + [""] * len(_COLUMNS)
    head = zip(kinds, headers(results), strict=True)
    heads = "".join(f'<th scope="col"{kind}><button type="button">{escape(name)}</button></th>' for kind, name in head)
    body = "\n".join(_row(results, row, kinds) for row in results.rows)
    return (
        "<section><h2>All combinations</h2>"
        f'<p class="note">Best first, by the mean validation {escape(results.about["metric"])}; a click on a heading '
        "sorts. Means are over the runs that are complete, with the standard deviation of a sample.</p>"
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></div></section>'
    )


def _row(results: Results, row: Row, kinds: list[str]) -> str:
    plain = numbers(results, row)
    sorts = [shown_value(plain[key]) for key in results.keys] + [plain[key] for key in _COLUMNS]
    filled = zip(kinds, sorts, cells(results, row), strict=True)
    shown = "".join(f'<td{kind} data-sort="{_sort(value)}">{escape(cell)}</td>' for kind, value, cell in filled)
    best = ' class="best"' if row is results.rows[0] and row.complete else ""
    return f"<tr{best}>{shown}</tr>"


def _sort(value: Any) -> str:
    return "" if value is None else escape(str(value))


def _failures(results: Results) -> Iterator[str]:
    remarks = [row for row in results.rows if row.remark]
    if remarks:
        failed = any(run.state == FAILED for run in results.runs)
        items = "".join(f"<li><strong>{escape(row.label)}</strong>: {escape(row.remark)}</li>" for row in remarks)
        title = "Runs that failed or were pruned" if failed else "Runs that were pruned"
        yield f'<section><h2>{title}</h2><ul class="failures">{items}</ul></section>'


def _stated(results: Results) -> dict[str, Any]:
    return {key: value for key, value in results.grid.plain().items() if value not in ({}, None)}


def _series(names: Any) -> str:
    *first, last = list(names) or ["seed"]
    return f"{', '.join(first)} and {last}" if first else last


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8").rstrip()
