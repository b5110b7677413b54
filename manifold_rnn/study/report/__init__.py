"""The report of a study: tables, figures and a page. Each file is written atomically."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from matplotlib.figure import Figure

from ... import __version__
from ..._pages.theme import svg
from ...errors import OptionError
from ...training.folder import replacing
from ...training.formats import KEY, TABLE
from ...training.record import write_json
from ...training.values import presentable, without_secrets
from ..results import Results, Row, shown_duration
from ..store import JOURNAL
from .pictures import PICTURES, draw
from .tables import TEMPLATES, columns, comma_separated, document, markdown, numbers, print_table

__all__ = ["REPORT", "draw", "own", "page", "print_table", "require_own", "require_own_names", "write_report"]
REPORT, RESULTS = "report.html", "results.json"
_WRITTEN = (REPORT, "table.md", "table.csv", *(f"{name}.svg" for name in PICTURES))


def write_report(results: Results, folder: Path) -> None:
    """Write ``report.html``, ``table.md``, ``table.csv``, ``results.json``, and the figures as SVG."""
    write_json(folder / RESULTS, document(results))
    figures = draw(results)
    texts = {REPORT: page(results, figures), "table.md": markdown(results), "table.csv": comma_separated(results)}
    study = presentable(results.study)
    texts |= {f"{name}.svg": svg(figure, f"{name} of {study}") for name, figure in figures.items()}
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def page(results: Results, figures: Mapping[str, Figure]) -> str:
    """Return the report as HTML."""
    complete = [row for row in results.rows if row.complete]
    stated = {key: value for key, value in results.grid.plain().items() if value not in ({}, None)}
    return TEMPLATES.get_template("page.html").render(
        results=results,
        columns=columns(results),
        numbers=numbers,
        duration=shown_duration,
        listed=[results.titles[key] for key in results.listed],
        near=[row.label for row in complete[1:] if _is_near(complete[0], row)],
        pictures={name: svg(figure, name, on_page=True) for name, figure in figures.items()},
        stated=without_secrets(yaml.safe_dump(stated, sort_keys=False, allow_unicode=True)),
        version=__version__,
    )


def _is_near(best: Row, row: Row) -> bool:
    """Whether two means differ by less than the sum of their standard deviations."""
    if best.validation_mean is None or row.validation_mean is None:
        return False
    return abs(best.validation_mean - row.validation_mean) <= sum(r.validation_deviation or 0.0 for r in (best, row))


def own(results: Results, folder: Path) -> None:
    """Make a folder that of one study, by ``results.json``. Call it under a lock. Raises as `require_own`."""
    require_own(folder, results.study)
    if not (folder / RESULTS).exists():
        write_json(folder / RESULTS, document(results))


def require_own_names(folder: Path, study: str, names: Sequence[str]) -> None:
    """Raise `OptionError` if the journal in a folder has studies with these names, but not this one."""
    if names and study not in names:
        raise _not_own(folder, study, f"a journal of the study '{names[0]}'")


def _not_own(folder: Path, study: str, content: str) -> OptionError:
    return OptionError(
        f"`output` needs a folder for the study '{study}' alone. Got '{folder}' with {content}. Choose another folder."
    )


def require_own(folder: Path, study: str) -> None:
    """Raise `OptionError` if a folder contains the results of another study, or other files of the same names."""
    path = folder / RESULTS
    if not path.exists():
        foreign = [name for name in _WRITTEN if (folder / name).exists() and not (folder / JOURNAL).exists()]
        if foreign:
            raise _not_own(folder, study, f"a file {foreign[0]} that is not of a study")
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        owner, number = content["study"], content.get(KEY, 1)
    except (ValueError, KeyError, TypeError, RecursionError):
        owner, number = None, None
    if owner != study:
        of = f"of the study '{owner}'" if owner else "that are not of a study"
        raise _not_own(folder, study, f"results {of}")
    TABLE.require(number, f"'{path}'")
