"""The report of a comparison as one HTML file, which loads nothing."""

from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files

import yaml  # type: ignore[import-untyped]
from jinja2 import Environment
from matplotlib.figure import Figure

from ... import __version__
from ...training.record import FAILED
from ...training.values import Values
from ..results import Results, Row, shown_duration
from .figures import for_page
from .tables import cells, headers, sort_keys

_CAPTIONS = {
    "heatmap": "Mean ± standard deviation over the seeds, of the network with the lowest validation loss of each run. "
    "The frame is around the best by validation.",
    "curves": "Mean over the seeds; the band goes from the worst to the best of them.",
    "ranges": "A point for every run that is complete.",
    "time": "Left: until the end of training, at the mark. Right: a bar is a standard deviation over the seeds.",
    "eigenvalues": "Of the recurrent matrix: hollow before the first step, filled after the last one.",
}


def page(results: Results, figures: Mapping[str, Figure]) -> str:
    """Return the report as HTML."""
    metric, complete = results.about["metric"], [row for row in results.rows if row.complete]
    titles = {
        "heatmap": f"Test {metric} by {_series(results.titles[key] for key in results.listed)}",
        "curves": "Learning curves",
        "ranges": "Values that the search drew",
        "time": f"{metric[:1].upper()}{metric[1:]} against time",
        "eigenvalues": "Eigenvalues",
    }
    stated = {key: value for key, value in results.grid.plain().items() if value not in ({}, None)}
    near = [row.label for row in complete[1:] if _is_near(complete[0], row)]
    values: Values = {
        "results": results,
        "about": results.about,
        "metric": metric,
        "complete": complete,
        "best": next(iter(complete), None),
        "near": [*near[:3], *([f"{len(near) - 3} more"] if len(near) > 3 else [])],
        "tiles": list(_tiles(results, complete)),
        "pictures": [
            (titles[name], for_page(figure, titles[name]), _CAPTIONS[name]) for name, figure in figures.items()
        ],
        "headers": headers(results),
        "kinds": [' class="text"' if place < len(results.keys) else "" for place in range(len(headers(results)))],
        "rows": [(row, cells(results, row), sort_keys(results, row)) for row in results.rows],
        "remarks": [row for row in results.rows if row.remark],
        "failed": any(run.state == FAILED for run in results.runs),
        "stated": yaml.safe_dump(stated, sort_keys=False, allow_unicode=True),
        "version": __version__,
        "series": _series,
        **{key: _file(name) for key, name in (("style", "page.css"), ("script", "page.js"))},
    }
    return Environment(autoescape=True).from_string(_file("page.html")).render(values)


def _is_near(best: Row, row: Row) -> bool:
    """Whether two means differ by less than the deviations of both together."""
    if best.validation.mean is None or row.validation.mean is None:
        return False
    return abs(best.validation.mean - row.validation.mean) <= sum(r.validation.deviation or 0.0 for r in (best, row))


def _tiles(results: Results, complete: list[Row]) -> Iterator[tuple[str, str]]:
    for best in complete[:1]:
        yield f"test {results.about['metric']}", results.shown_spread(best.test)
        yield f"validation {results.about['metric']}", results.shown_spread(best.validation)
        yield "time per step", shown_duration(best.seconds_per_step)
        yield "parameters", "-" if best.parameters is None else f"{best.parameters:,}"
    yield "runs ended", f"{len(results.runs)} of {results.cases}"
    yield "training, all runs", shown_duration(sum(run.seconds for run in results.runs))


def _series(names: Iterable[str]) -> str:
    *first, last = list(names) or ["seed"]
    return f"{', '.join(first)} and {last}" if first else last


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8").rstrip()
