"""Diagnostics: numbers that describe a network, with a table and a picture of each. They need no extra but for plots.

How far each constrained weight is off its set:

>>> network = mr.zoo.scornn(1, 8, 10)
>>> assert mr.diagnostics.defects(network).largest < 1e-5

The eigenvalues of the recurrent matrix, and what its powers and its perturbations can do:

>>> spectrum = mr.diagnostics.spectrum(network)
>>> assert abs(spectrum.radius - 1) < 1e-5 and abs(spectrum.transient - 1) < 1e-5
"""

from .convolution import ConvSingularValues, conv_singular_values
from .defects import Defects, constrained_parameters, defects
from .fisher import FisherMemory, fisher_memory
from .pseudospectrum import Pseudospectrum, pseudospectrum
from .sources import RecurrentMatrix, recurrent_matrix
from .spectrum import Spectrum, eigenvalues, spectrum

__all__ = [
    "ConvSingularValues",
    "Defects",
    "FisherMemory",
    "Pseudospectrum",
    "RecurrentMatrix",
    "Spectrum",
    "constrained_parameters",
    "conv_singular_values",
    "defects",
    "eigenvalues",
    "fisher_memory",
    "pseudospectrum",
    "recurrent_matrix",
    "spectrum",
]
