"""The spectrum of the recurrent matrix of a network, and the defects of the constrained weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..constraints import parametrizations
from ..manifolds import manifold_of
from .sources import recurrent_matrix

if TYPE_CHECKING:
    import matplotlib.axes


@dataclass(frozen=True)
class Spectrum:
    """The eigenvalues of a matrix.

    Parameters
    ----------
    matrix : str
        Name of the matrix.
    eigenvalues : tuple of complex

    Examples
    --------
    >>> spectrum = mr.diagnostics.Spectrum("W_hh", (1j, -0.5))
    >>> assert spectrum.radius == 1 and "0.5" in spectrum.table()
    """

    matrix: str
    eigenvalues: tuple[complex, ...]

    @property
    def moduli(self) -> list[float]:
        """Moduli of the eigenvalues, in ascending order."""
        return sorted(abs(value) for value in self.eigenvalues)

    @property
    def radius(self) -> float:
        """Largest modulus; 0 if there is no eigenvalue."""
        return max(self.moduli, default=0.0)

    def table(self) -> str:
        """Return the range and the median of the moduli in one line."""
        if not self.eigenvalues:
            return f"spectrum of {self.matrix}: no finite matrix"
        moduli = self.moduli
        return (
            f"spectrum of {self.matrix}: moduli from {moduli[0]:.4g} to {moduli[-1]:.4g}, median {median(moduli):.4g}"
        )

    def plot(self, axes: "matplotlib.axes.Axes") -> None:
        """Draw the eigenvalues and the unit circle into axes of matplotlib."""
        from matplotlib.patches import Circle

        axes.add_patch(Circle((0, 0), 1, fill=False, edgecolor="0.75"))
        axes.scatter([z.real for z in self.eigenvalues], [z.imag for z in self.eigenvalues], s=14)
        reach = 1.06 * max(1.1, self.radius)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=self.matrix)


@dataclass(frozen=True)
class Defects:
    """How far the constrained weights of a network are off their sets.

    Parameters
    ----------
    by_weight : mapping from str to float
        The largest defect of each constrained weight that has a defect, by the name of the weight.

    Examples
    --------
    >>> defects = mr.diagnostics.Defects({"layer.weight_hh_l0": 2e-7})
    >>> assert defects.largest == 2e-7 and "2.0e-07" in defects.table()
    """

    by_weight: Mapping[str, float]

    @property
    def largest(self) -> float | None:
        """The largest defect; None if there is none."""
        return max(self.by_weight.values(), default=None)

    def table(self) -> str:
        """Return one line for each weight."""
        return "\n".join(f"defect of {name}: {defect:.1e}" for name, defect in self.by_weight.items())

    def plot(self, axes: "matplotlib.axes.Axes") -> None:
        """Draw a bar for each weight into axes of matplotlib, on a logarithmic scale."""
        axes.barh(list(self.by_weight), list(self.by_weight.values()))
        axes.set(xscale="log", xlabel="defect")


def spectrum(network: nn.Module) -> Spectrum:
    """Return the eigenvalues of the recurrent matrix, computed in double precision.

    Parameters
    ----------
    network : nn.Module
        As for `recurrent_matrix`.

    Returns
    -------
    Spectrum
        Without eigenvalues if an entry of the matrix is not finite.

    Raises
    ------
    OptionError
        If the network has no recurrent matrix.

    Examples
    --------
    >>> spectrum = mr.diagnostics.spectrum(mr.zoo.exprnn(1, 6, 2))
    >>> assert len(spectrum.eigenvalues) == 6 and abs(spectrum.radius - 1) < 1e-5
    """
    name, weight = recurrent_matrix(network)
    if not weight.numel() or not weight.isfinite().all():
        return Spectrum(name, ())
    double = weight.to(torch.complex128 if weight.is_complex() else torch.float64)
    values: list[complex] = torch.linalg.eigvals(double).tolist()
    return Spectrum(name, tuple(values))


def defects(network: nn.Module) -> Defects:
    """Measure how far each constrained weight is off its set, in double precision.

    Parameters
    ----------
    network : nn.Module
        Any module.

    Returns
    -------
    Defects
        Without the weights whose constraint holds by construction.

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(3, 3), "weight", mr.Orthogonal())
    >>> assert mr.diagnostics.defects(layer).by_weight["weight"] < 1e-6
    """
    measured = {name: entry.defect() for name, entry in parametrizations(network)}
    return Defects({name: float(defect) for name, defect in measured.items() if defect is not None})


def constrained_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that lie on a manifold, or from which a constrained weight is computed.

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
