"""The pseudospectrum of a matrix on a grid: the eigenvalues of all matrices close to it."""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import OptionError
from ..linalg import spectral_radius
from ..linalg.norms import normalized
from .plotting import axes_or_new
from .schur import SchurForm
from .sources import matrix_of, require_levels
from .tables import aligned

if TYPE_CHECKING:
    import matplotlib.axes

_EPS = (1e-3, 1e-2, 1e-1)
_TOL = 1e-3
_FAR = 1e12  # times the norm: beyond it, the smallest singular value is the modulus
_BLOCK = 2**19  # complex numbers between two updates of the progress bar


@dataclass(frozen=True, eq=False)
class Pseudospectrum:
    r"""Smallest singular values of :math:`zI - W` on a grid of complex numbers.

    Parameters
    ----------
    matrix : str
        Name of the matrix.
    eps : tuple of float
        Norms of the perturbations, in ascending order.
    radius : mapping from float to float
        Pseudospectral radius for each norm. It does not depend on the grid.
    real, imaginary : tuple of float
        Coordinates of the grid.
    log10_smallest : Tensor, shape (imaginary, real)
        Decimal logarithms of the smallest singular values.
    eigenvalues : tuple of complex
        Eigenvalues of the matrix.

    Examples
    --------
    >>> result = mr.diagnostics.pseudospectrum(torch.zeros(2, 2), eps=(0.5,), points=9)
    >>> assert result.log10_smallest.shape == (9, 9) and abs(result.radius[0.5] - 0.5) < 1e-8
    """

    matrix: str
    eps: tuple[float, ...]
    radius: Mapping[float, float]
    real: tuple[float, ...]
    imaginary: tuple[float, ...]
    log10_smallest: Tensor = field(repr=False)
    eigenvalues: tuple[complex, ...]

    def table(self) -> str:
        """Return one line for each size of a perturbation."""
        head = f"pseudospectrum of {self.matrix}, {len(self.real)} x {len(self.imaginary)} points"
        what = "largest modulus after perturbations of this norm"
        return aligned(head, [(f"radius at {eps:.3g}", f"{radius:.6g}", what) for eps, radius in self.radius.items()])

    def plot(self, axes: "matplotlib.axes.Axes | None" = None) -> "matplotlib.axes.Axes":
        """Draw the boundary of each pseudospectrum, the eigenvalues, and the unit circle."""
        from matplotlib import colormaps, rcParams
        from matplotlib.lines import Line2D
        from matplotlib.patches import Circle

        axes = axes_or_new(axes)
        levels = [math.log10(eps) for eps in self.eps]
        colors = [colormaps["viridis"](0.9 * k / max(1, len(levels) - 1)) for k in range(len(levels))]
        heights = self.log10_smallest.cpu().numpy()
        drawn = [k for k, level in enumerate(levels) if heights.min() < level < heights.max()]
        if drawn:
            chosen = [levels[k] for k in drawn], [colors[k] for k in drawn]
            axes.contour(
                self.real,
                self.imaginary,
                heights,
                levels=chosen[0],
                colors=chosen[1],
                linewidths=1.2,
                linestyles="solid",
            )
        axes.add_patch(Circle((0, 0), 1, fill=False, edgecolor="0.5", linestyle="--"))
        points = [z.real for z in self.eigenvalues], [z.imag for z in self.eigenvalues]
        handles: list[object] = [
            axes.scatter(*points, s=9, color=rcParams["text.color"], zorder=3, label="eigenvalues")
        ]
        handles += [Line2D([], [], color="0.5", linestyle="--", label="unit circle")]
        for k, (eps, color) in enumerate(zip(self.eps, colors, strict=True)):
            note = "" if k in drawn else " (no contour)"
            handles.append(Line2D([], [], color=color, label=f"norm {eps:.3g}{note}"))
        axes.set(xlim=(self.real[0], self.real[-1]), ylim=(self.imaginary[0], self.imaginary[-1]), aspect="equal")
        axes.set(xlabel="real part", ylabel="imaginary part", title=f"pseudospectrum of {self.matrix}")
        axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize="small")
        return axes


def pseudospectrum(
    source: Tensor | nn.Module,
    eps: Sequence[float] = _EPS,
    *,
    points: int = 100,
    extent: tuple[float, float, float, float] | None = None,
    progress: bool = False,
) -> Pseudospectrum:
    r"""Compute the pseudospectrum of a matrix on a grid, and its radius for each size of a perturbation.

    .. math:: \sigma_\epsilon(W) = \{z : s_{\min}(zI - W) \le \epsilon\}
        = \{\text{eigenvalues of } W + E : \|E\|_2 \le \epsilon\}.

    Parameters
    ----------
    source : Tensor, shape (n, n), or nn.Module
        As for `spectrum`.
    eps : sequence of float
        Norms of the perturbations.
    points : int
        Number of points of the grid along each axis, at least 2.
    extent : tuple of four floats, optional
        Smallest and largest real part, smallest and largest imaginary part. The default is a square around 0 that
        contains the unit circle and all pseudospectra, or only the pseudospectra if their scale is very different.
    progress : bool
        Whether to show a progress bar on the error stream.

    Returns
    -------
    Pseudospectrum

    Raises
    ------
    ShapeError, NonFiniteError
        If the matrix is not square, an entry is not finite, or the norm exceeds the largest number.
    OptionError
        If the module has no recurrent matrix, ``eps`` is empty or not positive, ``points`` is below 2, or ``extent``
        is not two intervals.

    Notes
    -----
    The method computes one complex Schur form. Then an inverse Lanczos iteration computes the norm of the resolvent at
    many grid points at once. A sweep solves two triangular systems, and needs memory for a few blocks of 8 MiB. If the
    iteration does not converge to a relative error of 1e-3, the singular values are computed directly. A real matrix
    needs only half of the grid. The cost of each point grows with the square of n.

    The grid only affects the plot. The radii are refined on circles to about eight digits, see `spectrum`. Source:
    Trefethen and Embree (2005), chapter 39.

    Examples
    --------
    >>> jordan = torch.diag(torch.ones(9), 1)  # all eigenvalues are 0
    >>> result = mr.diagnostics.pseudospectrum(jordan, eps=(1e-6,), points=40)
    >>> assert abs(result.radius[1e-6] - 0.25285) < 1e-5
    """
    levels = tuple(sorted(set(require_levels(eps, "pseudospectrum"))))
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise OptionError(
            f"pseudospectrum needs a grid.\nExpected points of at least 2; got {points!r}.\nPass points=100."
        )
    name, W = matrix_of(source, "pseudospectrum")
    form = SchurForm.of(W, float(spectral_radius(W)))
    radii = form.pseudospectral_radii(levels)
    left, right, bottom, top = _square(max(radii)) if extent is None else _require_extent(extent)
    x = torch.linspace(left, right, points, dtype=torch.float64, device=W.device)
    y = torch.linspace(bottom, top, points, dtype=torch.float64, device=W.device)
    mirrored = form.real and bottom == -top
    rows = y[points // 2 :] if mirrored else y
    parts, bar = [], _Bar(len(rows) if progress else 0)
    unit = normalized(W)[1]
    scaled = SchurForm(form.T / unit, form.radius / float(unit), form.real)
    for part in rows.split(_rows(points, len(W))):
        parts.append(_smallest(scaled, unit, x.expand(len(part), -1), part[:, None].expand(-1, points)))
        bar.advance(len(part))
    smallest = torch.cat(parts)
    if mirrored:
        smallest = torch.cat([smallest.flip(0)[: points // 2], smallest])
    tiny = torch.finfo(smallest.dtype).tiny
    values: list[complex] = form.T.diagonal().tolist()
    radius = dict(zip(levels, radii, strict=True))
    grid = tuple(x.tolist()), tuple(y.tolist()), smallest.clamp(min=tiny).log10()
    return Pseudospectrum(name, levels, radius, *grid, tuple(values))


def _smallest(scaled: SchurForm, unit: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Smallest singular values at x + iy. The matrix is scaled by ``unit``, because squares could underflow."""
    x, y = x / unit, y / unit
    modulus = torch.hypot(x, y)
    is_far = modulus > _FAR * max(1.0, scaled.norm)
    z = torch.complex(torch.where(is_far, _FAR, x), torch.where(is_far, 0, y))
    return torch.where(is_far, modulus, scaled.resolvent(z, _TOL, direct=True)) * unit


def _rows(points: int, n: int) -> int:
    """Number of grid rows in about one block of the iteration, so that the progress bar advances often."""
    return max(1, _BLOCK // n // points)


def _square(radius: float) -> tuple[float, float, float, float]:
    reach = 1.1 * (max(radius, 1.0) if 1e-2 < radius < 1e2 else radius)
    return -reach, reach, -reach, reach


def _require_extent(extent: Sequence[float]) -> tuple[float, float, float, float]:
    values = tuple(float(value) for value in extent)
    if len(values) != 4 or not all(map(math.isfinite, values)) or values[0] >= values[1] or values[2] >= values[3]:
        raise OptionError(
            "pseudospectrum needs a rectangle as extent.\n"
            f"Expected extent=(left, right, bottom, top) in ascending pairs; got {values}.\nLeave it out for a default."
        )
    return values[0], values[1], values[2], values[3]


class _Bar:
    """A progress bar on the error stream. Length 0 shows none."""

    def __init__(self, length: int) -> None:
        self._length, self._done, self._start = length, 0, time.perf_counter()

    def advance(self, count: int) -> None:
        """Advance the bar by ``count`` rows of the grid."""
        if not self._length:
            return
        self._done += count
        share = self._done / self._length
        left = (time.perf_counter() - self._start) * (1 - share) / share
        text = f"\rpseudospectrum [{'#' * round(30 * share):<30}] {share:4.0%}, {left:.0f} s left "
        sys.stderr.write(text + ("\n" if self._done == self._length else ""))
        sys.stderr.flush()
