"""Diagnostics: numbers that describe a network, with a table and a picture of each. They need no extra but for plots.

How far each constrained weight is off its set:

>>> network = mr.zoo.scornn(1, 8, 10)
>>> assert mr.diagnostics.defects(network).largest < 1e-5

The eigenvalues of the recurrent matrix:

>>> spectrum = mr.diagnostics.spectrum(network)
>>> assert abs(spectrum.radius - 1) < 1e-5
"""

from .defects import Defects, constrained_parameters, defects
from .sources import RecurrentMatrix, recurrent_matrix
from .spectrum import Spectrum, eigenvalues, spectrum

__all__ = [
    "Defects",
    "RecurrentMatrix",
    "Spectrum",
    "constrained_parameters",
    "defects",
    "eigenvalues",
    "recurrent_matrix",
    "spectrum",
]
