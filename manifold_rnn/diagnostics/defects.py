"""The distances of constrained weights from their sets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from ..constraints import parametrizations
from ..manifolds import manifold_of
from .plotting import axes_or_new

if TYPE_CHECKING:
    import matplotlib.axes


@dataclass(frozen=True)
class Defects:
    """The distances of the constrained weights of a network from their sets.

    Parameters
    ----------
    by_weight : mapping from str to float
        Largest defect of each constrained weight that has one, by the name of the weight.

    Examples
    --------
    >>> defects = mr.diagnostics.Defects({"layer.weight_hh_l0": 2e-7})
    >>> assert defects.largest == 2e-7 and "2.0e-07" in defects.table()
    """

    by_weight: Mapping[str, float]

    @property
    def largest(self) -> float | None:
        """The largest defect, or None if there is none."""
        return max(self.by_weight.values(), default=None)

    def table(self) -> str:
        """Return one line for each weight."""
        lines = [f"defect of {name}: {defect:.1e}" for name, defect in self.by_weight.items()]
        return "\n".join(lines or ["no constrained weights"])

    def plot(self, axes: "matplotlib.axes.Axes | None" = None) -> "matplotlib.axes.Axes":
        """Draw a bar for each weight, on a logarithmic scale if any is positive, into the axes or a new figure."""
        axes = axes_or_new(axes)
        axes.barh(list(self.by_weight), list(self.by_weight.values()))
        axes.set_ylim(-1, max(len(self.by_weight), 3))  # a single bar does not fill the picture
        axes.set(xlabel="defect", title="distance of the weights from their sets")
        if self.largest:  # a logarithmic scale needs a positive number
            axes.set_xscale("log")
        if not self.by_weight:
            axes.set(xticks=[], yticks=[], xlabel=self.table())
        return axes


def defects(network: nn.Module) -> Defects:
    """Measure the distance of each constrained weight from its set, in double precision.

    Parameters
    ----------
    network : nn.Module
        Any module.

    Returns
    -------
    Defects
        Weights whose constraint holds by construction are left out.

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Orthogonal())
    >>> assert mr.diagnostics.defects(layer).by_weight["weight"] < 1e-6
    """
    measured = {name: entry.defect() for name, entry in parametrizations(network)}
    return Defects({name: float(defect) for name, defect in measured.items() if defect is not None})


def constrained_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that lie on a manifold, or that a constrained weight is computed from.

    Parameters
    ----------
    network : nn.Module
        Any module.

    Returns
    -------
    list of Parameter

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Orthogonal())
    >>> assert mr.diagnostics.constrained_parameters(layer) == [layer.weight]
    """
    free = {id(p) for _, entry in parametrizations(network) for p in entry.parameters()}
    return [p for p in network.parameters() if id(p) in free or manifold_of(p) is not None]
