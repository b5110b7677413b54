"""Manifolds of matrices: subclasses of `geoopt.Manifold` whose retraction is a value."""

from .base import Adapted, Manifold, adapt
from .groups import MatrixGroup, Orthogonal, SpecialOrthogonal, Unitary, UnitaryRealForm
from .viewed import Viewed

__all__ = [
    "Adapted",
    "Manifold",
    "MatrixGroup",
    "Orthogonal",
    "SpecialOrthogonal",
    "Unitary",
    "UnitaryRealForm",
    "Viewed",
    "adapt",
]
