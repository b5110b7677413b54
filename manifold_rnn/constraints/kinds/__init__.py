"""Structured constraints: weights that are computed from parameters of their own, in the trivialized view only."""

from .damped_skew import DampedSkew
from .diagonal_disc import DiagonalDisc
from .fixed_base import FixedBase
from .lipschitz_mixture import LipschitzMixture
from .low_rank import IdentityPlusLowRank
from .phase_scaled import PhaseScaled
from .reflections import Reflections
from .rotations import Rotations
from .schur_disc import SchurDisc
from .schur_form import SchurForm
from .sticky_disc import StickyDisc
from .unitary_product import UnitaryProduct

__all__ = [
    "DampedSkew",
    "DiagonalDisc",
    "FixedBase",
    "IdentityPlusLowRank",
    "LipschitzMixture",
    "PhaseScaled",
    "Reflections",
    "Rotations",
    "SchurDisc",
    "SchurForm",
    "StickyDisc",
    "UnitaryProduct",
]
