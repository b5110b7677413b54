"""Constraints: make any weight of any layer a point on a manifold, in place.

The weight stays a parameter, and a Riemannian optimizer moves it on its manifold (*update* view).

>>> layer = mr.constrain(torch.nn.Linear(4, 4), "weight", mr.Orthogonal("cayley"))
>>> optimizer = mr.optim.RiemannianSGD(layer.parameters(), lr=0.1)

Or the weight is computed from free parameters, which any torch optimizer trains (*trivialized* view).

>>> free = mr.constrain(torch.nn.Linear(4, 4), "weight", mr.Orthogonal("exp"), view="trivialized")
>>> optimizer = torch.optim.Adam(free.parameters(), lr=0.01)

`constrain` attaches an object of one type for every constraint. It computes, assigns, checks and measures the weight.

>>> entry = free.constraints["weight"]
>>> assert isinstance(entry, mr.constraints.Parametrization) and entry.defect() < 1e-5
"""

from .assembled import Assembled, block_triangular
from .constrain import constrain, release, set_retraction
from .constraint import Constraint
from .kinds.birkhoff import Birkhoff
from .kinds.damped_skew import DampedSkew
from .kinds.diagonal_disc import DiagonalDisc
from .kinds.diagonal_gram import DiagonalGram
from .kinds.fixed_base import FixedBase
from .kinds.fixed_spectrum import FixedSpectrum
from .kinds.lipschitz_mixture import LipschitzMixture
from .kinds.low_rank import IdentityPlusLowRank
from .kinds.orthogonal_adapter import OrthogonalAdapter
from .kinds.orthogonal_conv import OrthogonalConv
from .kinds.phase_scaled import PhaseScaled
from .kinds.reflection_adapter import ReflectionAdapter
from .kinds.reflections import Reflections
from .kinds.rotations import Rotations
from .kinds.schur_disc import SchurDisc
from .kinds.schur_form import SchurForm
from .kinds.sticky_disc import StickyDisc
from .kinds.stiefel_adapter import StiefelAdapter
from .kinds.subspace_adapter import SubspaceAdapter
from .kinds.unitary_product import UnitaryProduct
from .loading import adapter_state_dict, load_checked
from .matching import constrain_matching, degrees_of_freedom
from .parametrization import Parametrization
from .registry import parametrizations
from .scope import cached, scope
from .trivialized import Trivialization, trivialize
from .update import Update

__all__ = [
    "Assembled",
    "Birkhoff",
    "Constraint",
    "DampedSkew",
    "DiagonalDisc",
    "DiagonalGram",
    "FixedBase",
    "FixedSpectrum",
    "IdentityPlusLowRank",
    "LipschitzMixture",
    "OrthogonalAdapter",
    "OrthogonalConv",
    "Parametrization",
    "PhaseScaled",
    "ReflectionAdapter",
    "Reflections",
    "Rotations",
    "SchurDisc",
    "SchurForm",
    "StickyDisc",
    "StiefelAdapter",
    "SubspaceAdapter",
    "Trivialization",
    "UnitaryProduct",
    "Update",
    "adapter_state_dict",
    "block_triangular",
    "cached",
    "constrain",
    "constrain_matching",
    "degrees_of_freedom",
    "load_checked",
    "parametrizations",
    "release",
    "scope",
    "set_retraction",
    "trivialize",
]
