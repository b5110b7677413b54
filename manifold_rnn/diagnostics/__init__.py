"""Diagnostics: numbers that describe a network, each with a table and a plot. Only plots need an extra.

Measure the spectrum of the recurrent matrix, and the distance of each constrained weight from its set:

>>> network = mr.zoo.scornn(1, 8, 10)
>>> spectrum = mr.diagnostics.spectrum(network)
>>> assert abs(spectrum.radius - 1) < 1e-5
>>> assert mr.diagnostics.defects(network).largest < 1e-5

Measure the gradient over time, and how well the states recall past inputs:

>>> x, y = torch.rand(50, 20, 1), torch.randint(10, (50,))
>>> flow = mr.diagnostics.gradient_flow(network, (x, y))
>>> assert len(flow.gradient_mean) == 20 and mr.diagnostics.memory(network).total > 0

Measure the coverage of test cases, and search for inputs that increase it:

>>> covered = mr.diagnostics.coverage(network, calibrate=x, cases=x[:10])
>>> found = mr.diagnostics.search(network, covered, x[:5], feature=("change", 0), offspring=50)
>>> assert found.fitness[-1] <= found.fitness[0]

Measure the accuracy under noise, attacks and perturbed weights:

>>> report = mr.diagnostics.robustness(network, (x, y), radii=(0.1,))
>>> assert 0 <= report.clean <= 1
"""

from .campaigns import Campaign, campaign
from .convolution import ConvSingularValues, conv_singular_values
from .covered import Coverage, coverage
from .defects import Defects, constrained_parameters, defects
from .features import Calibration, Feature
from .fisher import FisherMemory, fisher_memory
from .gradient_flow import GradientFlow, gradient_flow
from .lipschitz import LipschitzBound, lipschitz_bound
from .lyapunov import Lyapunov, lyapunov_exponents
from .memory import Memory, memory
from .pseudospectrum import Pseudospectrum, pseudospectrum
from .robustness import Robustness, robustness
from .searching import Search, search
from .signal_to_noise import SignalToNoise, signal_to_noise
from .sources import RecurrentMatrix, recurrent_matrix
from .spectrum import Spectrum, eigenvalues, spectrum
from .structures import Structures, structures
from .weight_profile import WeightProfile, weight_profile
from .worst_case import WorstPerturbation, worst_perturbation

__all__ = [
    "Calibration",
    "Campaign",
    "ConvSingularValues",
    "Coverage",
    "Defects",
    "Feature",
    "FisherMemory",
    "GradientFlow",
    "LipschitzBound",
    "Lyapunov",
    "Memory",
    "Pseudospectrum",
    "RecurrentMatrix",
    "Robustness",
    "Search",
    "SignalToNoise",
    "Spectrum",
    "Structures",
    "WeightProfile",
    "WorstPerturbation",
    "campaign",
    "constrained_parameters",
    "conv_singular_values",
    "coverage",
    "defects",
    "eigenvalues",
    "fisher_memory",
    "gradient_flow",
    "lipschitz_bound",
    "lyapunov_exponents",
    "memory",
    "pseudospectrum",
    "recurrent_matrix",
    "robustness",
    "search",
    "signal_to_noise",
    "spectrum",
    "structures",
    "weight_profile",
    "worst_perturbation",
]
