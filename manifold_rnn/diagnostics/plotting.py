"""Where the pictures of diagnostics are drawn. matplotlib is imported only here, when something is drawn."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import matplotlib.axes


def axes_or_new(axes: "matplotlib.axes.Axes | None") -> "matplotlib.axes.Axes":
    """Return the axes, or those of a new figure of their own."""
    if axes is not None:
        return axes
    from matplotlib.figure import Figure

    return Figure(figsize=(6.4, 4.2), layout="constrained").add_subplot()
