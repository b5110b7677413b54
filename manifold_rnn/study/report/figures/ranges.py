"""What a search has found along its ranges."""

from typing import Any

from matplotlib.figure import Figure

from ...results import Results
from .layout import Layout
from .theme import INK, dress, metric_axis, panels


def draw_ranges(results: Results) -> Figure | None:
    """Draw the validation metric against every number that a search draws; None if there is none."""
    keys = [key for key, space in results.grid.search.items() if "choices" not in space]
    if not keys or not any(row.complete for row in results.rows):
        return None
    layout = Layout(results)
    figure, axes = panels(len(keys), 3.7, 3.0)
    for panel, key in zip(axes, keys, strict=True):
        for row in results.rows:
            values = [run.validation or 0.0 for run in row.complete]
            style: dict[str, Any] = {"color": layout.colour(row), "marker": layout.marker(row), "linestyle": "none"}
            panel.plot([row.choices[key]] * len(values), values, alpha=0.8, **style)
        dress(panel)
        metric_axis(panel, results)
        panel.set_xscale("log" if results.grid.search[key].get("log") else "linear")
        panel.set_title(results.titles[key], color=INK, fontsize=11)
        panel.set_xlabel(key)
        panel.set_ylabel(f"validation {results.about['metric']}")
    return figure
