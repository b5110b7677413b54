"""The pictures of a comparison, drawn once and coloured twice: for a page that is light or dark, and for a file."""

from matplotlib import rc_context
from matplotlib.figure import Figure

from ...results import Results
from .curves import draw_curves
from .heatmap import draw_heatmap
from .scatter import draw_eigenvalues, draw_ranges, draw_time
from .theme import STYLE, for_file, for_page

__all__ = ["draw", "for_file", "for_page"]
_DRAW = {"heatmap": draw_heatmap, "curves": draw_curves, "ranges": draw_ranges, "time": draw_time}
_DRAW["eigenvalues"] = draw_eigenvalues


def draw(results: Results) -> dict[str, Figure]:
    """Draw all pictures for which there is something to show."""
    with rc_context(STYLE):  # type: ignore[arg-type]  # whose keys are checked when it runs
        figures = {name: make(results) for name, make in _DRAW.items()}
    return {name: figure for name, figure in figures.items() if figure is not None}
