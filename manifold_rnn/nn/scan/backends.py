"""The table of backends, in the order in which "auto" tries them."""

from typing import TYPE_CHECKING, Literal, TypeAlias

from ...errors import OptionError
from .associative import Associative
from .base import Backend
from .chunked import Chunked
from .compiled import Compiled
from .elman.fused import Fused
from .elman.native import Native
from .elman.triton import Triton
from .gated import Gated
from .reference import Reference
from .torch_kernel import TorchKernel

BY_NAME: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        TorchKernel(),
        Associative(),
        Chunked(),
        Triton(),
        Native(),
        Fused(),
        Gated(),
        Compiled(),
        Reference(),
    )
}
BACKENDS: tuple[str, ...] = ("auto", *BY_NAME)

if TYPE_CHECKING:
    BackendName: TypeAlias = str  # a type checker cannot derive the names from the table
else:
    BackendName = Literal[BACKENDS]


def require_backend(name: str) -> None:
    """Raise `OptionError` unless there is a backend of this name."""
    if name not in BACKENDS:
        raise OptionError(
            "The value of backend is unknown.\n"
            f"Expected one of {', '.join(map(repr, BACKENDS))}; got {name!r}.\n"
            'Use "auto" unless you need a particular scan.'
        )
