"""Axes for the pictures of results; matplotlib is imported when one is drawn."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import matplotlib.axes


def axes_or_new(axes: "matplotlib.axes.Axes | None") -> "matplotlib.axes.Axes":
    """Return the given axes, or axes of a new figure."""
    if axes is not None:
        return axes
    from matplotlib.figure import Figure

    return Figure(layout="constrained").subplots()
