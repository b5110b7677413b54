"""The figures of a report: heat map, learning curves, scores against time and along ranges, eigenvalues."""

import textwrap
from collections.abc import Sequence
from itertools import islice, product
from statistics import mean

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..._pages.theme import COLOURS, INK, LINE, LINES, MARKERS, MUTED, STYLE, panels, plain_logarithm
from ...training.values import Value, Values, presentable
from ..grid import shown_entry
from ..results import Results, Row

_MAP = colormaps["viridis"]
_FIRST = ("network.constraint", "network.retraction")  # if both vary, they become the rows and the columns
_FACETS = 6
_SHOWN = 8  # number of curves of a search
_SPECTRA = 12
PICTURES = ("heatmap", "curves", "ranges", "time", "eigenvalues")
_LONGEST = 80  # largest number of characters of a label
Where = dict[str | None, Value]


class Facets:
    """The layout of heat maps: the keys for columns (``across``), rows (``down``) and separate maps (``beside``)."""

    def __init__(self, results: Results) -> None:
        self.results = results
        keys = results.listed
        keys.sort(key=lambda key: _FIRST.index(key) if key in _FIRST else len(_FIRST))
        self.down: str | None = keys[0] if len(keys) > 1 else None
        self.across: str | None = keys[len(keys) > 1] if keys else None
        most = None if results.grid.grid else _FACETS + 1  # a search may have more combinations than memory
        combinations = islice(product(*(results.values(key) for key in keys[2:])), most)
        self._others: list[Where] = [dict(zip(keys[2:], values, strict=True)) for values in combinations]
        self.beside = self._others if len(self._others) <= _FACETS else [{}]

    def values(self, key: str | None) -> list[Value]:
        """Return the values of a key, or [None] for no key."""
        return [None] if key is None else self.results.values(key)

    def rows(self, where: Where) -> list[Row]:
        """Return the rows of the table with these values, the best first."""
        conditions = {key: value for key, value in where.items() if key is not None}
        return [row for row in self.results.rows if all(row.choices.get(k) == v for k, v in conditions.items())]

    def colour(self, row: Row) -> str:
        """Return the colour of a row: that of its column."""
        return COLOURS[self.place(row)[0] % len(COLOURS)]

    def marker(self, row: Row) -> str:
        """Return the marker of a row."""
        return MARKERS[self.values(self.down).index(row.choices.get(self.down or "")) % len(MARKERS)]

    def line(self, row: Row) -> str:
        """Return the line style of a row. It changes when a colour is used again."""
        return LINES[self.place(row)[1] % len(LINES)]

    def place(self, row: Row) -> tuple[int, int]:
        """Return the index of a row's column, and of its other values. In a search: its rank there."""
        across = self.values(self.across).index(row.choices.get(self.across or ""))
        if self.results.grid.search:
            same = self.rows({self.across: row.choices.get(self.across or "")})
            return across, same.index(row)
        return across, next(k for k, where in enumerate(self._others) if row in self.rows(where))

    def name(self, key: str | None, value: Value) -> str:
        """Return the name of a value in a figure."""
        return "" if key is None else shortened(shown_entry(self.results.titles[key], value))


def shortened(text: str) -> str:
    """Return a text without its middle if it is too long for a figure."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 :]}"


def draw(results: Results) -> dict[str, Figure]:
    """Draw all figures that have data to show."""
    makers = (draw_heatmap, draw_curves, draw_ranges, draw_time, draw_eigenvalues)
    with rc_context(STYLE):  # type: ignore[arg-type]  # whose keys are checked when it runs
        figures = {name: make(results) for name, make in zip(PICTURES, makers, strict=True)}
    return {name: figure for name, figure in figures.items() if figure is not None}


def draw_heatmap(results: Results) -> Figure | None:
    """Draw the test metric for every pair of values of two keys. Returns None if no key has a list of values.

    If more keys vary than there are maps, a cell shows the best combination over them by validation.
    """
    facets = Facets(results)
    if facets.across is None:
        return None
    down, across = facets.values(facets.down), facets.values(facets.across)
    width, height = 1.35 * len(across) + 1.9, 0.72 * len(down) + 1.0
    figure, axes = panels(len(facets.beside), width, height, columns=max(1, int(12 // width)))
    means = [row.test_mean for row in results.rows if row.test_mean is not None]
    scale, titles = Normalize(min(means, default=0.0), max(means, default=1.0)), results.titles
    for panel, beside in zip(axes, facets.beside, strict=True):
        panel.set(xlim=(-0.5, len(across) - 0.5), ylim=(len(down) - 0.5, -0.5))
        panel.set(xlabel=titles.get(facets.across or "", ""), ylabel=titles.get(facets.down or "", ""))
        panel.set_xticks(range(len(across)), [facets.name(facets.across, value) for value in across])
        panel.set_yticks(range(len(down)), [facets.name(facets.down, value) for value in down])
        panel.set_title(", ".join(facets.name(*item) for item in beside.items()))
        panel.grid(visible=False)
        panel.tick_params(length=0, labelcolor=INK, labelsize=10)
        panel.spines[:].set_visible(False)
        for i, vertical in enumerate(down):
            for j, horizontal in enumerate(across):
                where = {**beside, facets.down: vertical, facets.across: horizontal}
                _cell(panel, results, next(iter(facets.rows(where)), None), (j, i), scale)
    return figure


def _cell(axes: Axes, results: Results, row: Row | None, at: tuple[int, int], scale: Normalize) -> None:
    look: Values
    style: Values
    mean = row.test_mean if row else None
    if row is None or mean is None:
        text = "failed" if row and not row.complete and row.runs[0].failure else "pruned" if row else "not run"
        look, style = {"facecolor": "none", "edgecolor": LINE, "hatch": "////"}, {"color": MUTED}
    else:
        share = float(scale(mean))
        colour = _MAP(0.08 + 0.9 * (share if results.higher_is_better else 1 - share))
        is_best = row is results.rows[0]
        text = results.shown_spread(row.test_mean, row.test_deviation).replace(" ± ", "\n± ")
        look = {"facecolor": to_hex(colour), "edgecolor": INK if is_best else "none"}
        luminance = sum(part * value**2.2 for part, value in zip((0.2126, 0.7152, 0.0722), colour[:3], strict=True))
        is_dark = luminance < 0.195  # below it white has the higher contrast
        style = {"color": "#ffffff" if is_dark else "#10151c", "weight": "bold" if is_best else "normal"}
    axes.add_patch(Rectangle((at[0] - 0.48, at[1] - 0.47), 0.96, 0.94, linewidth=1.6, **look))
    axes.text(*at, text, ha="center", va="center", fontsize=11, **style)


def draw_curves(results: Results) -> Figure | None:
    """Draw the validation metric over epochs, with a panel for every value of one key."""
    if not any(run.history for run in results.runs):
        return None
    facets = Facets(results)
    groups = _groups(facets)
    keys = [key for key in results.keys if key != facets.down or results.grid.search]  # what differs within a panel
    figure, axes = panels(len(groups), 3.7 if len(groups) > 1 else 6.0, 3.0, share=True)
    handles: dict[tuple[int, int], Line2D] = {}
    for panel, (title, rows) in zip(axes, groups, strict=True):
        for row in rows:
            style: Values = {"color": facets.colour(row), "linestyle": facets.line(row)}
            epochs, low, middle, high = _band(row)
            if low != high:
                panel.fill_between(epochs, low, high, color=style["color"], alpha=0.18, linewidth=0)
            panel.plot(epochs, middle, linewidth=1.8, marker="o" if len(epochs) < 4 else None, markersize=4, **style)
            if epochs:
                label = ", ".join(facets.name(key, row.choices[key]) for key in keys)
                handles[facets.place(row)] = Line2D([], [], label=shortened(label or row.label), **style)
        panel.set(title=title, xlabel="epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        metric_axis(panel, results, "validation")
    _share_limits(axes, results)
    if len(handles) > 1:
        figure.legend(handles=[handles[place] for place in sorted(handles)], loc="outside right center")
    return figure


def _band(row: Row) -> tuple[list[int], list[float], list[float], list[float]]:
    """Return epochs, and the lowest, mean and highest metric of the runs that reached them."""
    epochs: dict[int, list[float]] = {}
    for epoch in (epoch for run in row.runs for epoch in run.history if epoch["val_metric"] is not None):
        epochs.setdefault(epoch["epoch"], []).append(epoch["val_metric"])
    most = max(map(len, epochs.values()), default=0)
    kept = {epoch: values for epoch, values in sorted(epochs.items()) if len(values) == most}
    values = list(kept.values())
    return list(kept), [min(v) for v in values], [mean(v) for v in values], [max(v) for v in values]


def _groups(facets: Facets) -> list[tuple[str, Sequence[Row]]]:
    rows = facets.results.rows
    if facets.results.grid.search:
        return [(f"the best {_SHOWN}" if len(rows) > _SHOWN else "", rows[:_SHOWN])]
    values = facets.values(facets.down)
    groups = [(facets.name(facets.down, value), facets.rows({facets.down: value})) for value in values]
    return [(title, rows) for title, rows in groups if rows]


def _share_limits(axes: Sequence[Axes], results: Results) -> None:
    """Begin the shared axis at the values after a third of the epochs. The earlier part is too steep to show."""
    low, _ = axes[0].get_ylim()
    means = [middle for row in results.rows for _, _, middle, _ in [_band(row)] if len(middle) >= 6]
    late = [value for middle in means for value in middle[len(middle) // 3 :]]
    if late and results.higher_is_better:
        axes[0].set_ylim(bottom=max(low, min(late) - 0.15 * (max(late) - min(late))))
    for panel in axes:
        if not panel.get_subplotspec().is_first_col():  # type: ignore[union-attr]  # it is one of several
            panel.set_ylabel("")


def draw_time(results: Results) -> Figure | None:
    """Draw the validation metric over seconds, and the test metric over the time of a step. None without data."""
    timed = [row for row in results.rows if row.complete and row.seconds]
    if not timed:
        return None
    facets = Facets(results)
    figure, (left, right) = panels(2, 5.2, 3.7, columns=2)
    for row in timed:
        colour, marker, is_best = facets.colour(row), facets.marker(row), row is results.rows[0]
        epochs, _, middle, _ = _band(row)
        each = (row.seconds or 0.0) / max(len(run.history) for run in row.complete)
        seconds = [epoch * each for epoch in epochs]
        left.plot(seconds, middle, color=colour, linewidth=1.3, alpha=0.85)
        left.plot(seconds[-1:], middle[-1:], color=colour, marker=marker, markersize=6)
        if row.seconds_per_step is not None and row.test_mean is not None:
            edge: Values = {"markeredgecolor": INK if is_best else "none", "markeredgewidth": 1.6}
            at, error = (1000 * row.seconds_per_step, row.test_mean), row.test_deviation
            right.errorbar(*at, yerr=error, color=colour, marker=marker, markersize=9 if is_best else 7, **edge)
    left.set(title="Validation over training time", xlabel="training time in seconds")
    right.set(title="Test over time per step", xlabel="milliseconds per step", xlim=(0, None))
    metric_axis(left, results, "validation")
    metric_axis(right, results, "test")
    figure.legend(handles=_handles(facets), loc="outside right center")
    return figure


def draw_ranges(results: Results) -> Figure | None:
    """Draw the validation metric against every number that a search draws. Returns None if it draws none."""
    keys = [key for key, space in results.grid.search.items() if "choices" not in space]
    if not keys or not any(row.complete for row in results.rows):
        return None
    facets = Facets(results)
    figure, axes = panels(len(keys), 3.7, 3.0)
    for panel, key in zip(axes, keys, strict=True):
        for row in results.rows:
            values = [run.validation or 0.0 for run in row.complete]
            panel.scatter([row.choices[key]] * len(values), values, color=facets.colour(row), marker=facets.marker(row))
        panel.set(title=results.titles[key], xlabel=presentable(key))
        if results.grid.search[key].get("log"):
            panel.set_xscale("log")
            plain_logarithm(panel.xaxis)
        metric_axis(panel, results, "validation")
    return figure


def draw_eigenvalues(results: Results) -> Figure | None:
    """Draw the eigenvalues of the first run of the best combinations. Returns None if no run has any."""
    firsts = [(row, run) for row in results.rows for run in row.complete[:1] if run.spectrum_end][:_SPECTRA]
    if not firsts:
        return None
    facets = Facets(results)
    figure, axes = panels(len(firsts), 2.6, 2.9, columns=4)
    for panel, (row, run) in zip(axes, firsts, strict=True):
        panel.add_patch(Circle((0, 0), 1, fill=False, edgecolor=LINE, linewidth=1.2))
        for pairs, face, edge in ((run.spectrum_start, "none", MUTED), (run.spectrum_end, facets.colour(row), "none")):
            real, imaginary = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            panel.scatter(real, imaginary, s=14, facecolors=face, edgecolors=edge)
        reach = 1.06 * max(1.1, *(abs(part) for pair in (*run.spectrum_start, *run.spectrum_end) for part in pair))
        panel.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=(), yticks=(), aspect="equal")
        panel.spines[:].set_visible(False)
        title = textwrap.fill(f"{shortened(row.label)}: {presentable(run.matrix)}", 34, break_on_hyphens=False)
        panel.set_title(title, fontsize=9)
    return figure


def _handles(facets: Facets) -> list[Line2D]:
    handles = []
    for key in (facets.across, facets.down):
        for value in facets.values(key) if key else []:
            for row in facets.rows({key: value})[:1]:
                colour, marker = (facets.colour(row), "o") if key == facets.across else (MUTED, facets.marker(row))
                label = facets.name(key, value)
                handles.append(Line2D([], [], linestyle="none", color=colour, marker=marker, label=label))
    return handles


def metric_axis(axes: Axes, results: Results, stage: str) -> None:
    """Format the vertical axis for the metric. Errors get a logarithmic axis."""
    axes.set_ylabel(f"{stage} {results.about['metric']}")
    if results.higher_is_better:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    else:
        axes.set_yscale("log")
        plain_logarithm(axes.yaxis)
