"""The pictures of a comparison, drawn once and coloured twice: for a page that is light or dark, and for a file."""

from matplotlib.figure import Figure

from ...results import Results
from .curves import draw_curves
from .eigenvalues import draw_eigenvalues
from .heatmap import draw_heatmap
from .ranges import draw_ranges
from .theme import for_file, for_page
from .time import draw_time

__all__ = ["draw", "for_file", "for_page"]
_DRAW = {
    "heatmap": draw_heatmap,
    "curves": draw_curves,
    "ranges": draw_ranges,
    "time": draw_time,
    "eigenvalues": draw_eigenvalues,
}


def draw(results: Results) -> dict[str, Figure]:
    """Draw all pictures for which there is something to show."""
    figures = {name: make(results) for name, make in _DRAW.items()}
    return {name: figure for name, figure in figures.items() if figure is not None}
