"""Optimization on matrix manifolds for PyTorch, and recurrent networks built on it.

A constrained weight is a point on a manifold, a retraction says how it moves, and everything that uses the weight sees
a plain dense tensor. The most used names stand here; each package holds the rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from . import _command as _command  # first
from . import _geoopt as _geoopt  # before the others
from . import (
    constraints,
    diagnostics,
    errors,
    interop,
    linalg,
    manifolds,
    moments,
    nn,
    online,
    optim,
    retractions,
    tasks,
    testing,
    zoo,
)
from .constraints import (
    DampedSkew,
    DiagonalDisc,
    FixedBase,
    IdentityPlusLowRank,
    LipschitzMixture,
    OrthogonalAdapter,
    PhaseScaled,
    ReflectionAdapter,
    Reflections,
    Rotations,
    SchurDisc,
    SchurForm,
    StickyDisc,
    StiefelAdapter,
    SubspaceAdapter,
    UnitaryProduct,
    block_triangular,
    cached,
    constrain,
    constrain_matching,
    degrees_of_freedom,
    load_checked,
    release,
    set_retraction,
)
from .manifolds import (
    BlockTriangular,
    Contraction,
    Oblique,
    Orthogonal,
    SpecialOrthogonal,
    SpecialUnitary,
    SpectralScaled,
    Sphere,
    Stiefel,
    Unitary,
    UnitaryRealForm,
    UnitDisc,
)

if TYPE_CHECKING:
    from . import cli as cli
    from . import study as study
    from . import training as training

__version__ = "0.1.0"

__all__ = [
    "BlockTriangular",
    "Contraction",
    "DampedSkew",
    "DiagonalDisc",
    "FixedBase",
    "IdentityPlusLowRank",
    "LipschitzMixture",
    "Oblique",
    "Orthogonal",
    "OrthogonalAdapter",
    "PhaseScaled",
    "ReflectionAdapter",
    "Reflections",
    "Rotations",
    "SchurDisc",
    "SchurForm",
    "SpecialOrthogonal",
    "SpecialUnitary",
    "SpectralScaled",
    "Sphere",
    "StickyDisc",
    "Stiefel",
    "StiefelAdapter",
    "SubspaceAdapter",
    "UnitDisc",
    "Unitary",
    "UnitaryProduct",
    "UnitaryRealForm",
    "__version__",
    "block_triangular",
    "cached",
    "constrain",
    "constrain_matching",
    "constraints",
    "degrees_of_freedom",
    "diagnostics",
    "errors",
    "interop",
    "linalg",
    "load_checked",
    "manifolds",
    "moments",
    "nn",
    "online",
    "optim",
    "release",
    "retractions",
    "set_retraction",
    "tasks",
    "testing",
    "zoo",
]


def __getattr__(name: str) -> object:
    if name in ("cli", "study", "training"):  # which need the extra `train` and seconds to import
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
