"""Manifolds of matrices: subclasses of `geoopt.Manifold` whose retraction is a value."""

from .base import Adapted, Manifold, adapt
from .block import BlockTriangular
from .contraction import Contraction
from .group import MatrixGroup
from .groups import Orthogonal, SpecialOrthogonal, Unitary, UnitaryRealForm
from .orthonormal import OrthonormalColumns
from .region import Region
from .special_unitary import SpecialUnitary
from .stiefel import Stiefel
from .unit_disc import UnitDisc
from .viewed import Viewed

__all__ = [
    "Adapted",
    "BlockTriangular",
    "Contraction",
    "Manifold",
    "MatrixGroup",
    "Orthogonal",
    "OrthonormalColumns",
    "Region",
    "SpecialOrthogonal",
    "SpecialUnitary",
    "Stiefel",
    "UnitDisc",
    "Unitary",
    "UnitaryRealForm",
    "Viewed",
    "adapt",
]
