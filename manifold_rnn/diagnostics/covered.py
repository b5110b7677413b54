"""Coverage of a recurrent layer by test cases, after TestRNN: which features of its states they reach."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .activity import Cases, Signal, activity, batch_axis, batches
from .evaluation import evaluating, reading
from .features import METRICS, SEARCHED, Calibration, Feature, Reached, calibrated, require_signal
from .plotting import axes_or_new
from .sources import States

if TYPE_CHECKING:
    import matplotlib.axes

_MEANINGS = {
    "boundary": "steps with a large sum of the states",
    "change": "steps with a large change of that sum",
    "temporal": "words over time",
    "NC": "units above 0",
    "KMNC": "tenths of [-1, 1], by unit",
    "NBC": "ends beyond -0.7 and 0.7, by unit",
    "SNAC": "units above 0.7",
}
_LISTED = 8


@dataclass(frozen=True)
class Coverage:
    """The coverage of test cases, as fractions from 0 to 1.

    Parameters
    ----------
    boundary, change, temporal : float
        Boundary, stepwise and temporal coverage.
    neuron : mapping from str to float
        Metrics of single units: ``NC``, ``KMNC``, ``NBC`` and ``SNAC``.
    words : tuple of str
        Words of temporal coverage that were observed, in order. "a" is the lowest letter.
    history : mapping from str to tuple
        The number of ``cases`` after each batch, and the value of every metric.
    cases : int
        Number of test cases.
    reached : mapping from str to tuple of int
        Indices of the features that were reached, by metric.
    calibration : Calibration
        Scale of the features.

    See Also
    --------
    coverage : measures the coverage.

    Examples
    --------
    >>> x = torch.randn(50, 6, 2)
    >>> measured = mr.diagnostics.coverage(mr.nn.RNN(2, 8, batch_first=True), x, x[:5])
    >>> assert measured.cases == 5 and measured.boundary <= 1 and "boundary" in measured.table()
    """

    boundary: float
    change: float
    temporal: float
    neuron: Mapping[str, float]
    words: tuple[str, ...]
    history: Mapping[str, tuple[float, ...]]
    cases: int
    reached: Reached
    calibration: Calibration

    @property
    def by_metric(self) -> dict[str, float]:
        """All seven coverage values, by the name of the metric."""
        return {metric: len(self.reached[metric]) / total for metric, total in self.calibration.totals.items()}

    @property
    def unreached(self) -> tuple[Feature, ...]:
        """The features of boundary, stepwise and temporal coverage that no case has reached yet.

        There may be no input that reaches them. They are not defects of the network.
        """
        return tuple(feature for metric in SEARCHED for feature in self._missing(metric))

    def _missing(self, metric: str) -> Iterator[Feature]:
        seen = {*self.reached[metric]}
        numbers = (k for k in range(self.calibration.totals[metric]) if k not in seen)
        return (self.calibration.feature(metric, k) for k in numbers)

    def table(self) -> str:
        """Return one line for each metric, then the features that were not reached."""
        totals, rows = self.calibration.totals, [f"coverage by {self.cases:,} cases"]
        for metric, value in self.by_metric.items():
            count = f"{len(self.reached[metric]):,} of {totals[metric]:,}"
            rows.append(f"  {metric:<8}  {value:6.1%}  {count:>15}  {_MEANINGS[metric]}")
        for metric, kind in zip(SEARCHED, ("steps of boundary", "steps of change", "words"), strict=True):
            missing = totals[metric] - len(self.reached[metric])
            at = [str(feature.at) for feature in itertools.islice(self._missing(metric), _LISTED)]
            more = f" and {missing - _LISTED:,} more" if missing > _LISTED else ""
            rows.append(f"unreached {kind}: {', '.join(at)}{more}" if at else f"unreached {kind}: none")
        return "\n".join([*rows, "Unreached features are not defects. There may be no input that reaches them."])

    def plot(self, axes: "matplotlib.axes.Axes | None" = None) -> "matplotlib.axes.Axes":
        """Draw all metrics against the number of cases."""
        from matplotlib.ticker import MaxNLocator

        axes = axes_or_new(axes)
        for metric in METRICS:
            style, width = ("o-", 2.2) if metric in SEARCHED else (".--", 1)
            x, y = self.history["cases"], self.history[metric]
            if len(x) == 1:  # for one batch, begin the line at 0 cases
                x, y = (0.0, *x), (0.0, *y)
            axes.plot(x, y, style, linewidth=width, markersize=3, label=metric)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))  # few ticks, because the numbers are long
        axes.set(title="Coverage by test cases", xlabel="cases", ylabel="covered", ylim=(-0.03, 1.03))
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
        return axes


class CoverageCount:
    """Counts the features that batches of a signal reach, in addition to those reached before."""

    def __init__(self, calibration: Calibration, before: Coverage | None = None) -> None:
        self.calibration, self.cases = calibration, 0 if before is None else before.cases
        self._seen = {m: torch.zeros(total, dtype=torch.bool) for m, total in calibration.totals.items()}
        for metric, places in (before.reached if before is not None else {}).items():
            self._seen[metric][[*places]] = True
        self._history = {key: [*values] for key, values in before.history.items()} if before is not None else {}

    def add(self, values: Tensor) -> None:
        """Count the cases of a signal of shape (B, T, n)."""
        require_signal(values, self.calibration.window, self.calibration.units)
        self.cases += len(values)
        for metric, reached in self.calibration.reached(values).items():
            self._seen[metric] |= reached.cpu()

    def mark(self) -> None:
        """Append the coverage so far to the history."""
        row = {
            "cases": float(self.cases),
            **{metric: float(seen.double().mean()) for metric, seen in self._seen.items()},
        }
        for key, value in row.items():
            self._history.setdefault(key, []).append(value)

    def is_reached(self, feature: Feature) -> bool:
        """Return whether a feature was reached."""
        return bool(self._seen[feature.metric][self.calibration.index(feature)])

    def coverage(self) -> Coverage:
        """Return the coverage so far."""
        reached = {metric: tuple(seen.nonzero().flatten().tolist()) for metric, seen in self._seen.items()}
        totals = self.calibration.totals
        by_metric = {metric: len(places) / totals[metric] for metric, places in reached.items()}
        return Coverage(
            **{metric: by_metric[metric] for metric in SEARCHED},
            neuron={metric: by_metric[metric] for metric in METRICS[3:]},
            words=tuple(map(self.calibration.word, reached["temporal"])),
            history={key: tuple(self._history.get(key, ())) for key in ("cases", *METRICS)},
            cases=self.cases,
            reached=reached,
            calibration=self.calibration,
        )


def coverage(
    layer: States,
    calibrate: Cases,
    cases: Cases = (),
    window: tuple[int, int] | None = None,
    boundary: float = 0.8,
    change: float = 0.6,
    symbols: int = 3,
    pieces: int = 5,
    signal: Signal = "output",
) -> Coverage:
    r"""Measure which features of the states of a recurrent layer are reached by test cases.

    The definitions use the states :math:`h_t` and the sum :math:`S_t = \sum_i h_{t, i}`:

    - Boundary coverage has a feature for every time step. It is reached if the scaled :math:`|S_t|` is at least
      ``boundary``. The scale maps the range over the known cases to [0, 1].
    - Stepwise coverage has a feature for every time step. It is reached if :math:`|S_t - S_{t-1}|`, scaled in the same
      way, is at least ``change``. The sum before the first step is 0.
    - Temporal coverage has a feature for every word. To find the word of a case, :math:`|S_t|` is normalized by the
      mean and the standard deviation over the known cases. Then it is averaged over ``pieces`` equal pieces of the
      window. Each average is replaced by one of ``symbols`` letters, which are equally probable under the normal
      distribution.
    - The metrics of single units use :math:`h_{t, i}` at all steps of the window. A feature of NC is a value above 0,
      and one of KMNC a value in a tenth of [-1, 1]. For NBC it is a value above 0.7 or below -0.7, and for SNAC above
      0.7. These metrics are meant for states in [-1, 1].

    Complex states are replaced by their moduli :math:`|h_{t, i}|`.

    Parameters
    ----------
    layer : nn.Module, or function of a batch
        A recurrent layer, a network with one, or a function that returns states of shape (B, T, n).
    calibrate : Tensor, Dataset, or iterable of Tensor
        Known cases, such as the training set, in the form of inputs of ``layer``. An iterable contains batches of
        inputs, or tuples that begin with them, as a `torch.utils.data.DataLoader` does. A dataset contains cases or
        such tuples.
    cases : Tensor, Dataset, or iterable of Tensor
        Test cases. The coverage is recorded after each batch, and after every 256 cases of a tensor.
    window : tuple of int, optional
        First and last time step that are counted, from 0. Default: all steps.
    boundary, change : float
        Thresholds of boundary and stepwise coverage.
    symbols, pieces : int
        Number of letters in the alphabet and in a word. There are :math:`symbols^{pieces}` words.
    signal : "output", "forget" or callable
        Signal to measure: the states, or the forget gates of an LSTM. A function of the states can return another
        signal of shape (B, T, n).

    Returns
    -------
    Coverage

    Raises
    ------
    OptionError
        If there are no known cases, an option is out of range, or the layer has no forget gates.
    ShapeError
        If the states do not have three axes, or if cases have another number of units or too few time steps.
    DtypeError
        If the inputs have another dtype than the weights.
    NonFiniteError
        If an input or a state is not finite.

    Notes
    -----
    Boundary and stepwise coverage count time steps, so their values are coarse for a window of few steps. They may stay
    below 1 even on the known cases, because the largest sums may occur at a few steps only. Source: Huang, Sun, Zhao,
    Sharp, Ruan, Meng, Huang, *Coverage-guided testing for recurrent neural networks* (2021). Its first version measures
    forget gates, its later versions states.

    Examples
    --------
    >>> x = torch.rand(300, 8, 2)
    >>> layer = torch.nn.LSTM(2, 16, batch_first=True)
    >>> measured = mr.diagnostics.coverage(layer, x, x, pieces=4)
    >>> assert measured.cases == 300 and 0 < measured.temporal <= 1
    >>> assert measured.history["cases"] == (256, 300)
    """
    axis = batch_axis(layer)
    with torch.no_grad(), evaluating(layer), reading(calibrate), reading(cases):
        known = (activity(layer, x, signal) for x in batches(calibrate, axis, "`calibrate`"))
        count = CoverageCount(calibrated(known, window, boundary, change, symbols, pieces, signal))
        for x in batches(cases, axis, "`cases`"):
            count.add(activity(layer, x, signal))
            count.mark()
    return count.coverage()
