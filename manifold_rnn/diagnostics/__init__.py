"""Diagnostics: numbers that describe a network, with a table and a picture of each. They need no extra but for plots.

How far each constrained weight is off its set:

>>> network = mr.zoo.scornn(1, 8, 10)
>>> assert mr.diagnostics.defects(network).largest < 1e-5

The eigenvalues of the recurrent matrix:

>>> spectrum = mr.diagnostics.spectrum(network)
>>> assert abs(spectrum.radius - 1) < 1e-5
"""

from .lipschitz import LipschitzBound, lipschitz_bound
from .robustness import Robustness, robustness
from .sources import RecurrentMatrix, recurrent_matrix
from .weights import Defects, Spectrum, constrained_parameters, defects, spectrum
from .worst_case import WorstPerturbation, worst_perturbation

__all__ = [
    "Defects",
    "LipschitzBound",
    "RecurrentMatrix",
    "Robustness",
    "Spectrum",
    "WorstPerturbation",
    "constrained_parameters",
    "defects",
    "lipschitz_bound",
    "recurrent_matrix",
    "robustness",
    "spectrum",
    "worst_perturbation",
]
