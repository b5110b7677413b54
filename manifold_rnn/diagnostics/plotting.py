"""Axes for the plots of diagnostics. matplotlib is imported only when a plot is drawn."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import matplotlib.axes


def axes_or_new(axes: "matplotlib.axes.Axes | None") -> "matplotlib.axes.Axes":
    """Return the axes, or the axes of a new figure."""
    if axes is not None:
        return axes
    from matplotlib.figure import Figure

    return Figure(figsize=(6.4, 4.2), layout="constrained").add_subplot()
