"""The features of coverage, and their scale, which is measured on known cases."""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from .._options import is_integer
from ..errors import OptionError, ShapeError
from .activity import Signal

METRICS = ("boundary", "change", "temporal", "NC", "KMNC", "NBC", "SNAC")
SEARCHED = METRICS[:3]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
_BINS, _CORNER = 10, 0.7  # bins of KMNC; threshold of NBC and SNAC
_MOST_WORDS = 10**6
Reached: TypeAlias = Mapping[str, tuple[int, ...]]


class Feature(NamedTuple):
    """A feature of coverage: a time step for boundary and stepwise coverage, or a word for temporal coverage.

    Parameters
    ----------
    metric : "boundary", "change" or "temporal"
        Metric of the feature.
    at : int or str
        The time step, counted from 0, or the word, such as "aacb".

    Examples
    --------
    >>> assert str(mr.diagnostics.Feature("boundary", 3)) == "boundary 3"
    """

    metric: str
    at: int | str

    def __str__(self) -> str:
        return f"{self.metric} {self.at}"


@dataclass(frozen=True)
class Calibration:
    r"""The scale of coverage: statistics of known cases, and thresholds.

    :math:`S_t` is the sum of the signal over the units. Boundary coverage uses :math:`|S_t|`, and stepwise coverage
    :math:`|S_t - S_{t-1}|`. Each is mapped linearly, so that the range over the known cases becomes [0, 1].

    Parameters
    ----------
    window : tuple of int
        First and last time step that are counted.
    units : int
        Number of units of the signal.
    boundary_range, change_range : tuple of float
        Smallest and largest value over the known cases.
    mean, deviation : float
        Mean and standard deviation of :math:`|S_t|` over the known cases and the steps of the window.
    boundary, change : float
        Thresholds on the mapped values.
    symbols, pieces : int
        Number of letters in the alphabet and in a word.
    signal : "output", "forget" or callable
        Signal that is measured.

    Examples
    --------
    >>> scale = mr.diagnostics.Calibration((0, 3), 2, (0.0, 1.0), (0.0, 1.0), 0.5, 0.2, 0.8, 0.6, 3, 2, "output")
    >>> assert scale.steps == 4 and scale.words == 9 and scale.word(5) == "bc"
    """

    window: tuple[int, int]
    units: int
    boundary_range: tuple[float, float]
    change_range: tuple[float, float]
    mean: float
    deviation: float
    boundary: float
    change: float
    symbols: int
    pieces: int
    signal: Signal

    @property
    def steps(self) -> int:
        """Number of time steps of the window."""
        return self.window[1] - self.window[0] + 1

    @property
    def words(self) -> int:
        """Number of words of this length over this alphabet."""
        return int(self.symbols**self.pieces)

    @property
    def totals(self) -> dict[str, int]:
        """Number of features of each metric."""
        n, per_step = self.units, dict.fromkeys(SEARCHED[:2], self.steps)
        return {**per_step, "temporal": self.words, "NC": n, "KMNC": _BINS * n, "NBC": 2 * n, "SNAC": n}

    def word(self, number: int) -> str:
        """Return a word by its index in alphabetical order."""
        digits = [number // self.symbols**k % self.symbols for k in reversed(range(self.pieces))]
        return "".join(LETTERS[digit] for digit in digits)

    def index(self, feature: Feature) -> int:
        """Return the index of a feature among those of its metric, or raise `OptionError`."""
        metric, at = feature
        first, last = self.window
        if metric == "temporal" and isinstance(at, str) and len(at) == self.pieces:
            digits = [LETTERS.find(letter) for letter in at]
            if all(0 <= digit < self.symbols for digit in digits):
                return sum(digit * self.symbols**k for k, digit in enumerate(reversed(digits)))
        if metric in SEARCHED[:2] and isinstance(at, int) and first <= at <= last:
            return at - first
        raise OptionError(
            f"A feature needs boundary or change with a step from {first} to {last}, or temporal with a word of "
            f"{self.pieces} letters from a to {LETTERS[self.symbols - 1]}. Got {metric!r:.20} with {at!r:.40}."
        )

    def feature(self, metric: str, index: int) -> Feature:
        """Return the feature of a metric at this index."""
        return Feature(metric, self.word(index) if metric == "temporal" else self.window[0] + index)

    def activations(self, values: Tensor) -> dict[str, Tensor]:
        """Return the mapped values of boundary and stepwise coverage for a signal (B, T, n), each (B, steps)."""
        sums, changes = aggregates(values, self.window)
        ranges = {"boundary": (sums, self.boundary_range), "change": (changes, self.change_range)}
        return {metric: _mapped(value, *limits) for metric, (value, limits) in ranges.items()}

    def levels(self, values: Tensor) -> Tensor:
        """Return the normalized sums, averaged over equal pieces of the window, shape (B, pieces)."""
        sums, _ = aggregates(values, self.window)
        return ((sums - self.mean) / self.deviation) @ _averages(self.steps, self.pieces).to(sums)

    def spelled(self, levels: Tensor) -> Tensor:
        """Return the indices of the letters of levels."""
        return torch.bucketize(levels, torch.tensor(self.cuts, dtype=levels.dtype, device=levels.device), right=True)

    @property
    def cuts(self) -> list[float]:
        """The quantiles of the normal distribution that separate the letters, which are equally probable."""
        return [NormalDist().inv_cdf(k / self.symbols) for k in range(1, self.symbols)]

    def reached(self, values: Tensor) -> dict[str, Tensor]:
        """Return, for every metric, whether any case of a signal (B, T, n) reaches each feature."""
        limits = {"boundary": self.boundary, "change": self.change}
        found = {m: (a.clamp(0, 1) >= limits[m]).any(0) for m, a in self.activations(values).items()}
        places = self.symbols ** torch.arange(self.pieces - 1, -1, -1, device=values.device)
        found["temporal"] = _marked(self.words, (self.spelled(self.levels(values)) * places).sum(-1))
        inside = values[:, self.window[0] : self.window[1] + 1].flatten(0, 1)  # (B * steps, n)
        high = (inside > _CORNER).any(0)
        bins = ((inside + 1) * (_BINS / 2)).floor().long().clamp(max=_BINS - 1)  # 1 belongs to the last bin
        numbers = bins + _BINS * torch.arange(self.units, device=values.device)
        found["KMNC"] = _marked(_BINS * self.units, numbers[inside.abs() <= 1])
        found |= {"NC": (inside > 0).any(0), "SNAC": high}
        found["NBC"] = torch.stack([high, (inside < -_CORNER).any(0)], -1).flatten()
        return {metric: found[metric] for metric in METRICS}

    def fitness(self, feature: Feature, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distance of each case to a feature, and whether the case reaches it, both of shape (B,).

        The distance is the threshold minus the mapped value. For a word, it is the sum of the distances of its levels
        to the intervals of its letters.
        """
        index = self.index(feature)
        if feature.metric != "temporal":
            threshold = self.boundary if feature.metric == "boundary" else self.change
            activation = self.activations(values)[feature.metric][:, index].clamp(max=1)
            return threshold - activation, activation.clamp(min=0) >= threshold
        levels = self.levels(values)
        edges = torch.tensor([-math.inf, *self.cuts, math.inf], dtype=levels.dtype, device=levels.device)
        letters = torch.tensor([LETTERS.index(letter) for letter in str(feature.at)], device=levels.device)
        below, above = (edges[letters] - levels).clamp(min=0), (levels - edges[letters + 1]).clamp(min=0)
        return (below + above).sum(-1), (self.spelled(levels) == letters).all(-1)


def calibrated(
    signals: Iterable[Tensor],
    window: tuple[int, int] | None,
    boundary: float,
    change: float,
    symbols: int,
    pieces: int,
    signal: Signal,
) -> Calibration:
    """Measure the scale on signals of shape (B, T, n), in one pass."""
    signals = iter(signals)
    first = next(signals, None)
    if first is None:
        raise OptionError("`calibrate` needs at least one case. Got none. Pass the training set.")
    window = _checked(first.shape[1], window, boundary, change, symbols, pieces)
    ranges = dict.fromkeys(SEARCHED[:2], (math.inf, -math.inf))
    count, mean, squares, unit = 0, 0.0, 0.0, 0.0  # squares are relative to the largest sum, so that none overflows
    for values in itertools.chain([first], signals):
        require_signal(values, window, first.shape[-1])
        sums, changes = aggregates(values, window)
        for key, part in zip(ranges, (sums, changes), strict=True):
            ranges[key] = (min(ranges[key][0], float(part.min())), max(ranges[key][1], float(part.max())))
        own, own_mean = sums.numel(), float(sums.mean())
        gap, total = own_mean - mean, count + sums.numel()
        before, unit = unit, max(unit, float(sums.max()))
        scale = unit or 1.0
        squares *= (before / scale) ** 2
        squares += float((((sums - own_mean) / scale) ** 2).sum()) + (gap / scale) ** 2 * count * own / total
        count, mean = total, mean + gap * own / total
    deviation = unit * math.sqrt(squares / count) or 1.0
    measured = (ranges["boundary"], ranges["change"], mean, deviation)
    return Calibration(window, first.shape[-1], *measured, boundary, change, symbols, pieces, signal)


def require_signal(values: Tensor, window: tuple[int, int], units: int) -> None:
    """Raise `ShapeError` unless a signal has this number of units and all steps of the window."""
    if values.shape[1] <= window[1] or values.shape[2] != units:
        raise ShapeError(
            f"Coverage needs all cases with {units} units and at least {window[1] + 1} steps. "
            f"Got a signal of shape {tuple(values.shape)}. Choose another `window`, or pad the sequences."
        )


def aggregates(values: Tensor, window: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the moduli of the sums over the units, and of their changes between steps, each (B, steps)."""
    sums = values.sum(-1)
    changes = torch.diff(sums, dim=1, prepend=torch.zeros_like(sums[:, :1])).abs()
    inside = slice(window[0], window[1] + 1)
    return sums.abs()[:, inside], changes[:, inside]


def _mapped(value: Tensor, low: float, high: float) -> Tensor:
    if high > low:
        return (value - low) / (high - low)
    return (value >= high).to(value)  # when all known cases have the same value


def _averages(steps: int, pieces: int) -> Tensor:
    """The matrix (steps, pieces) that averages over equal pieces. A step at a border is split between both."""
    edges = torch.arange(steps, dtype=torch.float64)[:, None] * pieces  # in units of 1 / pieces
    starts = torch.arange(pieces, dtype=torch.float64) * steps
    overlap = torch.minimum(edges + pieces, starts + steps) - torch.maximum(edges, starts)
    return overlap.clamp(min=0) / steps


def _marked(size: int, numbers: Tensor) -> Tensor:
    marks = torch.zeros(size, dtype=torch.bool, device=numbers.device)
    marks[numbers] = True
    return marks


def _checked(
    steps: int, window: tuple[int, int] | None, boundary: float, change: float, symbols: int, pieces: int
) -> tuple[int, int]:
    """Return the window after checking all options."""
    whole = (0, steps - 1) if window is None else window
    is_pair = isinstance(whole, (tuple, list)) and len(whole) == 2 and all(is_integer(step, 0) for step in whole)
    first, last = whole if is_pair else (0, steps)
    rules: dict[str, tuple[bool, str, object]] = {
        "window": (first <= last < steps, f"a first and a last step from 0 to {steps - 1}", window),
        "boundary": (_is_number(boundary), "a finite number", boundary),
        "change": (_is_number(change), "a finite number", change),
        "symbols": (is_integer(symbols, 2) and symbols <= len(LETTERS), "an integer from 2 to 26", symbols),
    }
    for key, (holds, expected, got) in rules.items():
        if not holds:
            raise OptionError(f"`{key}` needs {expected}. Got {got!r:.40}.")
    most = last - first + 1
    if not is_integer(pieces, 1) or pieces > most or symbols**pieces > _MOST_WORDS:
        raise OptionError(
            f"`pieces` needs an integer from 1 to the {most} steps of the window, with at most {_MOST_WORDS:,} words. "
            f"Got {pieces!r:.40} with {symbols} symbols. Choose fewer pieces."
        )
    return int(first), int(last)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
