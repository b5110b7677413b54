"""Genetic search for an input that reaches a feature of coverage."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .._options import is_integer
from ..errors import OptionError, ShapeError
from .activity import BATCH, activity, batch_axis, batches
from .covered import Coverage
from .evaluation import evaluating
from .features import Calibration, Feature, require_signal
from .mutation import Distance, Mutate, Mutation, root_mean_square
from .plotting import axes_or_new
from .sources import States

if TYPE_CHECKING:
    import matplotlib.axes


_RANKED = 500  # largest number of features that are compared


@dataclass(frozen=True, eq=False)
class Search:
    """The result of a search for an input that reaches a feature.

    Parameters
    ----------
    feature : Feature
        Feature that was searched for.
    reached : bool
        Whether an input was found. If not, an input may still exist.
    fitness : tuple of float
        Fitness of the best case, first of the seeds, then after each generation. It is the threshold minus the value of
        the feature. For a word, it is the distance to its letters.
    best : Tensor, shape of a batch with one case
        The input with the best fitness.
    seed : int
        Index of its seed.
    distance : float
        Distance of the input to this seed.
    cases : int
        Number of cases that were run, including the seeds.

    See Also
    --------
    search : runs a search.

    Examples
    --------
    >>> feature = mr.diagnostics.Feature("boundary", 3)
    >>> found = mr.diagnostics.Search(feature, True, (0.2, -0.1), torch.zeros(1, 4, 1), 0, 0.05, 60)
    >>> assert "boundary 3: reached" in found.table()
    """

    feature: Feature
    reached: bool
    fitness: tuple[float, ...]
    best: Tensor
    seed: int
    distance: float
    cases: int

    def table(self) -> str:
        """Return the result, and the fitness by generation."""
        end = "reached" if self.reached else "not reached; an input that reaches it may still exist"
        return (
            f"{self.feature}: {end}\n"
            f"  generations          {len(self.fitness) - 1}\n"
            f"  cases                {self.cases:,}\n"
            f"  fitness of seeds     {self.fitness[0]:.4g}  (a threshold is reached at 0)\n"
            f"  fitness of the best  {self.fitness[-1]:.4g}\n"
            f"  its seed             {self.seed}\n"
            f"  distance to it       {self.distance:.4g}"
        )

    def plot(self, axes: "matplotlib.axes.Axes | None" = None) -> "matplotlib.axes.Axes":
        """Draw the fitness against the generations."""
        from matplotlib.ticker import MaxNLocator

        axes = axes_or_new(axes)
        axes.plot(range(len(self.fitness)), self.fitness, marker="o", label="best case")
        axes.axhline(0, color="0.5", linestyle="--", linewidth=1, label="reached")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(title=f"Search for {self.feature}", xlabel="generation", ylabel="fitness")
        axes.legend(frameon=False)
        return axes


class Population(NamedTuple):
    """Cases with the indices of their seeds, their distances to a feature, and whether they reach it."""

    x: Tensor
    seeds: Tensor
    fitness: Tensor
    reached: Tensor

    def best(self, count: int) -> "Population":
        """Return the best cases. Cases that reach the feature come first."""
        order = torch.where(self.reached, self.fitness - 1e9, self.fitness).argsort(stable=True)[:count]
        return Population(*(part[order] for part in self))


class Genetic:
    """The genetic loop: the best cases survive, and each gets a fixed number of mutants.

    ``run(x, seeds)`` runs cases with the indices of their seeds, and returns their signal. ``distance`` limits mutants
    to a ``radius`` around their seeds.
    """

    def __init__(
        self,
        run: Callable[[Tensor, Tensor], Tensor],
        scale: Calibration,
        seeds: Tensor,
        mutation: Mutation,
        distance: Callable[[Tensor, Tensor], Tensor],
        radius: float | None,
    ) -> None:
        self._run, self._scale, self._seeds, self._mutation = run, scale, seeds, mutation
        self._distance, self._radius = distance, radius
        numbers = torch.arange(len(seeds), device=seeds.device)
        self._start = [
            (x, part, run(x, part)) for x, part in zip(seeds.split(BATCH), numbers.split(BATCH), strict=True)
        ]

    def nearest(self, features: list[Feature]) -> list[Feature]:
        """Return features, or a sample of many, ordered by their distance to the seeds."""
        features = features[:: -(-len(features) // _RANKED) or 1]
        fitness = {f: min(float(self._scale.fitness(f, h)[0].min()) for *_, h in self._start) for f in features}
        return sorted(features, key=fitness.__getitem__)

    def evolve(self, feature: Feature, generations: int, survivors: int, offspring: int) -> Search:
        """Search for a case that reaches a feature."""
        evaluated = [Population(x, part, *self._scale.fitness(feature, h)) for x, part, h in self._start]
        alive, cases = _joined(evaluated).best(survivors), len(self._seeds)
        fitness = [float(alive.fitness[0])]
        while len(fitness) <= generations and not alive.reached[0]:
            children = []
            for part in torch.arange(len(alive.x)).repeat_interleave(offspring).split(BATCH):
                x, seeds = self._mutation(alive.x[part]), alive.seeds[part]
                if self._radius is not None:
                    inside = self._distance(x, self._seeds[seeds]) <= self._radius
                    x, seeds = x[inside], seeds[inside]
                if len(x):
                    cases += len(x)
                    children.append(Population(x, seeds, *self._scale.fitness(feature, self._run(x, seeds))))
            alive = _joined([alive, *children]).best(survivors)
            fitness.append(float(alive.fitness[0]))
        best, seed = alive.x[:1], int(alive.seeds[0])
        distance = float(self._distance(best, self._seeds[seed : seed + 1]))
        return Search(feature, bool(alive.reached[0]), tuple(fitness), best, seed, distance, cases)


def _joined(parts: list[Population]) -> Population:
    return Population(*(torch.cat(column) for column in zip(*parts, strict=True)))


def search(
    layer: States,
    coverage: Coverage,
    seeds: Tensor,
    mutate: Mutate | None = None,
    feature: Feature | tuple[str, int | str] | None = None,
    generations: int = 10,
    survivors: int = 4,
    offspring: int = 1000,
    radius: float | None = None,
    distance: Distance | None = None,
    seed: int = 0,
) -> Search:
    r"""Search for an input that reaches a feature of coverage, by mutation of seeds.

    In each generation every survivor gets ``offspring`` mutants, and the best of all cases become the survivors. The
    search minimizes the fitness, which is the threshold minus the value of the feature, scaled as in `coverage`. For a
    word, it is the sum of the distances of the averages to the intervals of its letters. The search ends when a case
    reaches the feature.

    Parameters
    ----------
    layer : nn.Module, or function of a batch
        As for `coverage`.
    coverage : Coverage
        The coverage so far, with its scale.
    seeds : Tensor
        Batch of inputs from which the search starts.
    mutate : callable, optional
        Function that returns a mutant of each input, called with a batch of inputs and a `torch.Generator`. By default,
        Gaussian noise is added and the result is clamped to the range of the seeds. The variance is between 0.005 and
        0.02 times the square of this range. In integers and one-hot vectors, about one step in 20 gets another symbol
        of the seeds. Channels that are 0 or 1 in all seeds, such as the marks of `tasks.Adding`, stay unchanged. If all
        channels are, about one entry in 20 is drawn again from 0 and 1.
    feature : Feature or tuple, optional
        Feature to reach, such as ``("boundary", 3)`` or ``("temporal", "aabc")``. Default: the unreached feature that
        is closest to the seeds.
    generations, survivors, offspring : int
        Largest number of generations, number of cases that survive each, and number of mutants of each survivor.
    radius : float, optional
        Largest distance of a mutant to its seed. Default: none.
    distance : callable, optional
        Function of two batches of inputs that returns the distance of each pair, shape (B,). Default: the root mean
        square of the difference.
    seed : int
        Random seed.

    Returns
    -------
    Search

    Raises
    ------
    OptionError
        If an option is out of range, the feature does not exist, or no feature is unreached.
    ShapeError, NonFiniteError
        As for `coverage`, and if there is no seed or ``mutate`` does not return mutants.

    Examples
    --------
    >>> x = torch.rand(100, 8, 2)
    >>> layer = mr.nn.LSTM(2, 8, batch_first=True)
    >>> measured = mr.diagnostics.coverage(layer, x, x[:1], pieces=4)
    >>> found = mr.diagnostics.search(layer, measured, x[:5], feature=("change", 0), offspring=50)
    >>> assert found.reached and found.fitness[-1] <= 0 and found.best.shape == (1, 8, 2)
    """
    require_coverage(coverage)
    axis, scale = batch_axis(layer), coverage.calibration
    require_options(generations, survivors, offspring, radius)
    first = require_seeds(seeds, axis)
    with torch.no_grad(), evaluating(layer):
        mutation = Mutation(first, mutate, axis, seed)

        def run(x: Tensor, _: Tensor) -> Tensor:
            values = activity(layer, x.transpose(0, axis), scale.signal)
            require_signal(values, scale.window, scale.units)
            return values

        loop = Genetic(run, scale, first, mutation, measured_distance(distance, axis), radius)
        if feature is None:
            if not (unreached := [*coverage.unreached]):
                raise OptionError("`feature` needs an unreached feature. Got none. Pass a feature, such as boundary 0.")
            feature = loop.nearest(unreached)[0]
        if not isinstance(feature, (tuple, list)) or len(feature) != 2:
            raise OptionError(f'`feature` needs a pair such as ("boundary", 3). Got {feature!r:.80}.')
        wanted = Feature(*feature)
        scale.index(wanted)
        found = loop.evolve(wanted, generations, survivors, offspring)
    values = {**vars(found), "best": found.best.transpose(0, axis)}
    return Search(**values)


def measured_distance(distance: Distance | None, axis: int) -> Distance:
    """Return a distance for inputs whose first axis is the batch: the user's, with checks, or the root mean square."""
    if distance is None:
        return root_mean_square

    def checked(x: Tensor, y: Tensor) -> Tensor:
        values = distance(x.transpose(0, axis), y.transpose(0, axis))
        if not isinstance(values, Tensor) or values.shape != (len(x),):
            got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise ShapeError(f"`distance` needs to return a number for each of {len(x)} cases. Got {got}.")
        return values.double()

    return checked


def require_coverage(coverage: object) -> None:
    """Raise `OptionError` unless this is a `Coverage`."""
    if not isinstance(coverage, Coverage):
        raise OptionError(
            "`coverage` needs a result of `mr.diagnostics.coverage`. "
            f"Got {type(coverage).__name__}. Pass it before the seeds."
        )


def require_seeds(seeds: Tensor, axis: int) -> Tensor:
    """Return the seeds with the batch as first axis, or raise `ShapeError`."""
    if not isinstance(seeds, Tensor) or seeds.dim() < 2 or not seeds.numel():
        got = f"shape {tuple(seeds.shape)}" if isinstance(seeds, Tensor) else type(seeds).__name__
        raise ShapeError(f"`seeds` needs a batch of at least one input, such as shape (B, T, m). Got {got}.")
    for _ in batches(seeds, axis, "`seeds`"):
        return seeds.detach().transpose(0, axis)
    raise AssertionError


def require_options(generations: int, survivors: int, offspring: int, radius: float | None) -> None:
    """Raise `OptionError` unless the options of a search are in range."""
    for key, value, least in (
        ("generations", generations, 0),
        ("survivors", survivors, 1),
        ("offspring", offspring, 1),
    ):
        if not is_integer(value, least):
            raise OptionError(f"`{key}` needs an integer of at least {least}. Got {value!r:.40}.")
    if radius is not None and not (isinstance(radius, (int, float)) and radius > 0):
        raise OptionError(f"`radius` needs a positive number or None. Got {radius!r:.40}.")
