"""Diagnostics: numbers that describe a network, with a table and a picture of each. They need no extra but for plots.

How far each constrained weight is off its set:

>>> network = mr.zoo.scornn(1, 8, 10)
>>> assert mr.diagnostics.defects(network).largest < 1e-5

The eigenvalues of the recurrent matrix:

>>> spectrum = mr.diagnostics.spectrum(network)
>>> assert abs(spectrum.radius - 1) < 1e-5

How the gradient of a loss flows back through the states, and what they keep of past inputs:

>>> x, y = torch.randn(4, 20, 1), torch.randint(10, (4,))
>>> flow = mr.diagnostics.gradient_flow(network, (x, y))
>>> assert len(flow.gradient_mean) == 20 and mr.diagnostics.memory(network).total > 0
"""

from .gradient_flow import GradientFlow, gradient_flow
from .lyapunov import Lyapunov, lyapunov_exponents
from .memory import Memory, memory
from .signal_to_noise import SignalToNoise, signal_to_noise
from .sources import RecurrentMatrix, recurrent_matrix
from .weight_profile import WeightProfile, weight_profile
from .weights import Defects, Spectrum, constrained_parameters, defects, spectrum

__all__ = [
    "Defects",
    "GradientFlow",
    "Lyapunov",
    "Memory",
    "RecurrentMatrix",
    "SignalToNoise",
    "Spectrum",
    "WeightProfile",
    "constrained_parameters",
    "defects",
    "gradient_flow",
    "lyapunov_exponents",
    "memory",
    "recurrent_matrix",
    "signal_to_noise",
    "spectrum",
    "weight_profile",
]
