"""A test campaign: random mutants of seeds, searches for uncovered features, and changed predictions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._options import is_integer
from ..errors import NonFiniteError, OptionError, ShapeError
from .activity import BATCH, activity, batch_axis
from .checks import require_module
from .covered import Coverage, CoverageCount
from .evaluation import evaluating
from .features import SEARCHED
from .mutation import Distance, Mutate, Mutation
from .searching import Genetic, Search, measured_distance, require_coverage, require_options, require_seeds

if TYPE_CHECKING:
    import matplotlib.axes

_RECORDED = 1000  # largest number of unreached features in a record
Classify = Callable[[Any], Tensor]


@dataclass(frozen=True, eq=False)
class Campaign:
    """The result of a test campaign.

    Parameters
    ----------
    cases : int
        Number of cases that were run: the seeds, the random mutants, and the cases of all searches.
    seeds : int
        Number of seeds.
    adversarial : int or None
        Number of cases whose prediction differs from that of their seed, at a distance of at most ``radius``. None if
        no predictions were compared.
    broken : tuple of int
        Indices of the seeds with at least one adversarial case.
    perturbation : float or None
        Mean distance of adversarial cases to their seeds. None if there are no adversarial cases.
    radius : float
        Largest distance of an adversarial case to its seed.
    coverage : Coverage
        Coverage by all cases, including those that were counted before.
    searches : tuple of Search
        Results of all searches.
    examples : Tensor, shape of a batch with one case for each broken seed
        The adversarial case nearest to each of these seeds.

    See Also
    --------
    campaign : runs a campaign.

    Examples
    --------
    >>> network, x = mr.zoo.exprnn(1, 8, 3), torch.rand(40, 6, 1)
    >>> start = mr.diagnostics.coverage(network, x)
    >>> record = mr.diagnostics.campaign(network, start, x[:4], cases=20, generations=0)
    >>> assert record.cases == 24 and record.record()["seeds"] == 4
    """

    cases: int
    seeds: int
    adversarial: int | None
    broken: tuple[int, ...]
    perturbation: float | None
    radius: float
    coverage: Coverage
    searches: tuple[Search, ...]
    examples: Tensor

    def record(self) -> dict[str, Any]:
        """Return the result as plain values for JSON. More than 1000 unreached features are given as a number."""
        totals, reached = self.coverage.calibration.totals, self.coverage.reached
        missing = sum(totals[metric] - len(reached[metric]) for metric in SEARCHED)
        few = missing <= _RECORDED
        searches = [
            {"feature": str(s.feature), "reached": s.reached, "fitness": list(s.fitness), "cases": s.cases}
            for s in self.searches
        ]
        return {
            **{"cases": self.cases, "seeds": self.seeds, "adversarial": self.adversarial},
            **{"unique_seeds_broken": len(self.broken), "mean_perturbation": self.perturbation, "radius": self.radius},
            "coverage": self.coverage.by_metric,
            "unreached": [str(feature) for feature in self.coverage.unreached] if few else missing,
            "words": list(self.coverage.words),
            "history": {key: list(values) for key, values in self.coverage.history.items()},
            "searches": searches,
        }

    def table(self) -> str:
        """Return the result as text, followed by the coverage and the features that were not reached."""
        reached = sum(found.reached for found in self.searches)
        rows = [f"test campaign of {self.cases:,} cases from {self.seeds:,} seeds"]
        if self.adversarial is None:
            rows.append("  no answers were compared")
        else:
            mean = "none" if self.perturbation is None else f"{self.perturbation:.4g}"
            rows += [
                f"  adversarial cases  {self.adversarial:<8,}  the answer changes within distance {self.radius:g}",
                f"  seeds broken       {len(self.broken):<8,}  of {self.seeds:,}, with an adversarial case each",
                f"  mean perturbation  {mean:<8}  distance of adversarial cases to their seeds",
            ]
        rows.append(
            f"  searches           {len(self.searches):<8,}  for uncovered features, of which {reached} succeeded"
        )
        return "\n".join([*rows, self.coverage.table()])

    def plot(self, axes: "matplotlib.axes.Axes | None" = None) -> "matplotlib.axes.Axes":
        """Draw the coverage against the number of cases."""
        axes = self.coverage.plot(axes)
        flips = (
            "" if self.adversarial is None else f": {self.adversarial:,} adversarial, {len(self.broken)} seeds broken"
        )
        axes.set_title(f"Test campaign{flips}")
        return axes


def largest_output(outputs: object) -> Tensor:
    """Return the index of the largest output of each case, for outputs of shape (B, classes)."""
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or outputs.shape[1] < 2:
        got = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ShapeError(
            f"A campaign needs outputs of shape (B, classes) to compare answers. Got {got}. "
            "Pass `classify`, or classify=None to compare no answers."
        )
    return outputs.argmax(-1)


def campaign(
    network: nn.Module,
    coverage: Coverage,
    seeds: Tensor,
    cases: int = 1000,
    rounds: int = 10,
    mutate: Mutate | None = None,
    generations: int = 10,
    survivors: int = 4,
    offspring: int = 50,
    radius: float = 0.2,
    distance: Distance | None = None,
    classify: Classify | None = largest_output,
    seed: int = 0,
    progress: Callable[[float, int], object] | None = None,
) -> Campaign:
    """Test a network with mutants of seeds, and search for inputs that reach the uncovered features.

    Each round runs an equal part of the random mutants, one for every seed in turn. Then it searches for one uncovered
    feature each of boundary, stepwise and temporal coverage, as `search` does. The features closest to the seeds come
    first, and each is searched for once. Every case counts for coverage. A case is adversarial if its prediction
    differs from that of its seed, and its distance to the seed is at most ``radius``.

    Parameters
    ----------
    network : nn.Module
        Network with a recurrent layer. ``classify`` is called with its outputs.
    coverage : Coverage
        The coverage so far, with its scale. `coverage` without test cases returns one in which nothing is covered.
    seeds : Tensor
        Batch of inputs, such as a part of the test set.
    cases : int
        Number of random mutants over all rounds.
    rounds : int
        Number of rounds of mutants and searches.
    mutate : callable, optional
        As for `search`.
    generations, survivors, offspring : int
        Options of each search, see `search`. If ``generations`` is 0, there are no searches.
    radius : float
        Largest distance of an adversarial case to its seed.
    distance : callable, optional
        As for `search`. Default: the root mean square of the difference, which does not depend on the number of
        entries.
    classify : callable, optional
        Function that returns the predictions, shape (B, ...), for the outputs of a batch. Default: the index of the
        largest output. Pass None for networks that do not classify. Then no predictions are compared.
    seed : int
        Random seed.
    progress : callable, optional
        Function that is called with the completed fraction and the number of cases so far.

    Returns
    -------
    Campaign

    Raises
    ------
    OptionError, ShapeError, NonFiniteError
        As for `search`, and if the outputs are not those of a classifier.

    Notes
    -----
    Predictions are compared with the predictions for the seeds, not with true labels. So a seed that is classified
    wrongly counts like any other seed.

    Examples
    --------
    >>> network, x = mr.zoo.Network(mr.nn.LSTM(2, 8, batch_first=True), 3), torch.rand(100, 8, 2)
    >>> start = mr.diagnostics.coverage(network, x, pieces=4)
    >>> record = mr.diagnostics.campaign(network, start, x[:10], cases=50, rounds=1, offspring=10, generations=2)
    >>> assert record.coverage.cases == record.cases > 60 and len(record.searches) <= 3
    """
    require_module(network, "campaign")
    require_coverage(coverage)
    axis = batch_axis(network)
    require_options(generations, survivors, offspring, radius)
    for key, value, least in (("cases", cases, 0), ("rounds", rounds, 1)):
        if not is_integer(value, least):
            raise OptionError(f"`{key}` needs an integer of at least {least}. Got {value!r:.40}.")
    if classify is not None and not callable(classify):
        raise OptionError(f"`classify` needs a function of the outputs, or None. Got {classify!r:.40}.")
    first = require_seeds(seeds, axis)
    count = CoverageCount(coverage.calibration, coverage)
    with torch.no_grad(), evaluating(network):
        mutation = Mutation(first, mutate, axis, seed)
        run = _Run(network, count, first, measured_distance(distance, axis), radius, classify)
        loop = Genetic(run, coverage.calibration, first, mutation, run.distance, None)
        count.mark()
        waiting = {metric: [f for f in coverage.unreached if f.metric == metric] for metric in SEARCHED}
        waiting = {metric: loop.nearest(features) if generations else [] for metric, features in waiting.items()}
        searches, done = [], 0
        for k in range(rounds):
            share = cases * (k + 1) // rounds - done
            for part in ((torch.arange(share, device=first.device) + done) % len(first)).split(BATCH):
                if len(part):
                    run(mutation(first[part]), part)
            done += share
            count.mark()
            for metric in SEARCHED:
                waiting[metric] = [f for f in waiting[metric] if not count.is_reached(f)]
                if waiting[metric]:
                    searches.append(loop.evolve(waiting[metric].pop(0), generations, survivors, offspring))
                    count.mark()
            if progress is not None:
                progress((k + 1) / rounds, count.cases - coverage.cases)
    return run.finished(coverage, searches, axis)


class _Run:
    """Runs cases, counts their coverage, and compares their predictions with those for the seeds."""

    def __init__(
        self,
        network: nn.Module,
        count: CoverageCount,
        seeds: Tensor,
        distance: Distance,
        radius: float,
        classify: Classify | None,
    ) -> None:
        self.network, self.count, self.distance = network, count, distance
        self._seeds, self._radius, self._classify = seeds, radius, classify
        self._axis = batch_axis(network)
        self._answers: list[Tensor] = []  # predictions for the seeds, which are run first and in order
        self._adversarial, self._total = 0, 0.0
        self._nearest: dict[int, tuple[float, Tensor]] = {}

    def __call__(self, x: Tensor, seeds: Tensor) -> Tensor:
        """Return the signal of cases whose seeds have these indices."""
        with _outputs(self.network) as outputs:
            values = activity(self.network, x.transpose(0, self._axis), self.count.calibration.signal)
        self.count.add(values)
        if self._classify is None:
            return values
        if isinstance(outputs[-1], Tensor) and not outputs[-1].isfinite().all():
            raise NonFiniteError(
                "A campaign needs finite outputs to compare answers. Got NaN or infinity. "
                "Check the weights of the network, or pass classify=None."
            )
        answers = self._classify(outputs[-1])
        if not isinstance(answers, Tensor) or answers.dim() < 1 or len(answers) != len(x):
            raise ShapeError(f"`classify` needs to return an answer for each of {len(x)} cases. Got another number.")
        if sum(map(len, self._answers)) < len(self._seeds):
            self._answers.append(answers)
            return values
        self._answers = [torch.cat(self._answers)]
        changed = (answers != self._answers[0][seeds]).view(len(x), -1).any(1)
        distances = self.distance(x, self._seeds[seeds])
        for k in (changed & (distances <= self._radius)).nonzero().flatten().tolist():
            number, distance = int(seeds[k]), float(distances[k])
            self._adversarial += 1
            self._total += distance
            if number not in self._nearest or distance < self._nearest[number][0]:
                self._nearest[number] = distance, x[k]
        return values

    def finished(self, before: Coverage, searches: list[Search], axis: int) -> Campaign:
        """Return the result of the campaign."""
        broken = sorted(self._nearest)
        examples = [self._nearest[number][1] for number in broken]
        return Campaign(
            cases=self.count.cases - before.cases,
            seeds=len(self._seeds),
            adversarial=None if self._classify is None else self._adversarial,
            broken=tuple(broken),
            perturbation=self._total / self._adversarial if self._adversarial else None,
            radius=float(self._radius),
            coverage=self.count.coverage(),
            searches=tuple(Search(**{**vars(s), "best": s.best.transpose(0, axis)}) for s in searches),
            examples=(torch.stack(examples) if examples else self._seeds[:0]).transpose(0, axis),
        )


@contextmanager
def _outputs(network: nn.Module) -> Iterator[list[Any]]:
    """Collect the outputs of a network in the block."""
    outputs: list[Any] = []
    handle = network.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()
