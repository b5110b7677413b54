"""The report of a comparison as one HTML file, which loads nothing."""

from collections.abc import Mapping
from importlib.resources import files

import yaml  # type: ignore[import-untyped]
from jinja2 import Environment
from matplotlib.figure import Figure

from ... import __version__
from ...training.record import FAILED
from ...training.values import Values
from ..results import Results, Row, shown_duration
from .tables import cells, headers, sort_keys
from .theme import for_page


def page(results: Results, figures: Mapping[str, Figure]) -> str:
    """Return the report as HTML."""
    complete = [row for row in results.rows if row.complete]
    stated = {key: value for key, value in results.grid.plain().items() if value not in ({}, None)}
    values: Values = {
        "results": results,
        "about": results.about,
        "metric": results.about["metric"],
        "complete": complete,
        "near": [row.label for row in complete[1:] if _is_near(complete[0], row)],
        "listed": [results.titles[key] for key in results.listed],
        "pictures": {name: for_page(figure, name) for name, figure in figures.items()},
        "headers": headers(results),
        "rows": [(row, cells(results, row), sort_keys(results, row)) for row in results.rows],
        "failed": any(run.state == FAILED for run in results.runs),
        "seconds": sum(run.seconds for run in results.runs),
        "duration": shown_duration,
        "stated": yaml.safe_dump(stated, sort_keys=False, allow_unicode=True),
        "version": __version__,
        **{key: _file(name) for key, name in (("style", "page.css"), ("script", "page.js"))},
    }
    return Environment(autoescape=True).from_string(_file("page.html")).render(values)


def _is_near(best: Row, row: Row) -> bool:
    """Whether two means differ by less than the deviations of both together."""
    if best.validation_mean is None or row.validation_mean is None:
        return False
    return abs(best.validation_mean - row.validation_mean) <= sum(r.validation_deviation or 0.0 for r in (best, row))


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8").rstrip()
