"""Optimization on matrix manifolds for PyTorch, and recurrent networks built on it.

A constrained weight is a point on a manifold, and a retraction defines how an optimizer moves it. Layers use the weight
as a plain dense tensor. This module exports the most used names; each subpackage exports the rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from . import _command as _command  # first, since it handles Ctrl-C during the other imports
from . import _geoopt as _geoopt  # before the others import geoopt, to hide its warnings
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
    Birkhoff,
    DampedSkew,
    DiagonalDisc,
    DiagonalGram,
    FixedBase,
    FixedSpectrum,
    IdentityPlusLowRank,
    LipschitzMixture,
    OrthogonalAdapter,
    OrthogonalConv,
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
    SPD,
    BlockTriangular,
    Contraction,
    Grassmann,
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
    "SPD",
    "Birkhoff",
    "BlockTriangular",
    "Contraction",
    "DampedSkew",
    "DiagonalDisc",
    "DiagonalGram",
    "FixedBase",
    "FixedSpectrum",
    "Grassmann",
    "IdentityPlusLowRank",
    "LipschitzMixture",
    "Oblique",
    "Orthogonal",
    "OrthogonalAdapter",
    "OrthogonalConv",
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
    if name in ("cli", "study", "training"):  # they need the extra `train`, and seconds to import
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
