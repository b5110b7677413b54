"""Diagnostics: numbers that describe a network, with a table and a picture of each. They need no extra but for plots.

How far each constrained weight is off its set:

>>> network = mr.zoo.scornn(1, 8, 10)
>>> assert mr.diagnostics.defects(network).largest < 1e-5

The eigenvalues of the recurrent matrix:

>>> spectrum = mr.diagnostics.spectrum(network)
>>> assert abs(spectrum.radius - 1) < 1e-5

What test cases make the states do, and inputs that make them do more:

>>> x = torch.rand(50, 6, 1)
>>> covered = mr.diagnostics.coverage(network, calibrate=x, cases=x[:10])
>>> found = mr.diagnostics.search(network, covered, x[:5], feature=("change", 0), offspring=50)
>>> assert found.fitness[-1] <= found.fitness[0]
"""

from .campaigns import Campaign, campaign
from .covered import Coverage, coverage
from .features import Calibration, Feature
from .searching import Search, search
from .sources import RecurrentMatrix, recurrent_matrix
from .weights import Defects, Spectrum, constrained_parameters, defects, spectrum

__all__ = [
    "Calibration",
    "Campaign",
    "Coverage",
    "Defects",
    "Feature",
    "RecurrentMatrix",
    "Search",
    "Spectrum",
    "campaign",
    "constrained_parameters",
    "coverage",
    "defects",
    "recurrent_matrix",
    "search",
    "spectrum",
]
