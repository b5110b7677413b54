"""Manifolds of matrices: the sets of constrained weights, and the maps that move weights within them.

A manifold is an immutable object: a set, a metric and a retraction, which you choose. It moves points along tangent
vectors.

>>> O = mr.Orthogonal("cayley")
>>> x, g = O.random(4, 4), torch.randn(4, 4)
>>> y = O.retr(x, -0.1 * O.egrad2rgrad(x, g))  # one step of gradient descent
>>> assert O.defect(y) < 1e-5

Optimizers make the same step in coordinates. These are also the free parameters of the trivialized view.

>>> c = O.egrad2coordinates(x, g)  # 6 real numbers, an orthonormal basis
>>> assert c.shape == (6,) and torch.allclose(O.retr_coordinates(x, -0.1 * c), y, atol=1e-5)

A weight may be assembled from parts, each with its own manifold: gates, attention heads, kernels or triangles.

>>> gates = mr.manifolds.Blocks(O, blocks=4, which=(2,))  # the third gate of an LSTM, the others free
>>> assert gates.degrees_of_freedom((16, 4)) == 6 + 3 * 16
"""

from .adapted import Adapted, adapt, manifold_of
from .base import Manifold
from .blocks import BlockLayout, Blocks
from .contraction import Contraction
from .euclidean import Euclidean
from .fixed_norm import FixedNorm
from .grassmann import Grassmann
from .group import MatrixGroup
from .layout import Layout
from .matrix import MatrixManifold
from .oblique import Oblique
from .orthogonal import Orthogonal, SpecialOrthogonal
from .orthonormal import OrthonormalColumns
from .parts import Parts
from .real_form import RealFormLayout, UnitaryRealForm
from .region import Region
from .spd import SPD
from .special_unitary import SpecialUnitary
from .spectral_scaled import SpectralScaled
from .sphere import Sphere
from .stiefel import Stiefel
from .triangular import BlockTriangular, TriangularLayout
from .unit_disc import UnitDisc
from .unitary import Unitary
from .vectors import VectorManifold

__all__ = [
    "SPD",
    "Adapted",
    "BlockLayout",
    "BlockTriangular",
    "Blocks",
    "Contraction",
    "Euclidean",
    "FixedNorm",
    "Grassmann",
    "Layout",
    "Manifold",
    "MatrixGroup",
    "MatrixManifold",
    "Oblique",
    "Orthogonal",
    "OrthonormalColumns",
    "Parts",
    "RealFormLayout",
    "Region",
    "SpecialOrthogonal",
    "SpecialUnitary",
    "SpectralScaled",
    "Sphere",
    "Stiefel",
    "TriangularLayout",
    "UnitDisc",
    "Unitary",
    "UnitaryRealForm",
    "VectorManifold",
    "adapt",
    "manifold_of",
]
