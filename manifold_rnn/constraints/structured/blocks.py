"""A block-triangular weight whose blocks have free parameters of their own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import OffManifoldError, UnsupportedError
from ...manifolds import BlockTriangular
from ...retractions import Retraction
from ..admission import tolerance
from ..trivialization import require_shape


@dataclass(frozen=True, eq=False)
class Blocks:
    """What `constrain` makes of a `BlockTriangular` with a structured constraint among its blocks."""

    manifold: BlockTriangular
    trivialize_part: Callable[[Any, Tensor], nn.Module]

    def trivialize(self, like: Tensor) -> "BlockTrivialization":
        """Return the module that gives ``W``, each block as near to that of ``like`` as it can be."""
        top, bottom, free = self.manifold.pieces(like)
        parts = self.trivialize_part(self.manifold.top, top), self.trivialize_part(self.manifold.bottom, bottom)
        return BlockTrivialization(self.manifold, *parts, free)


class BlockTrivialization(nn.Module):
    """Two entries on the diagonal, a parameter above.

    Parameters
    ----------
    manifold : BlockTriangular
    top, bottom : nn.Module
        Their ``forward()`` gives the diagonal blocks.
    free : Tensor
        The start of the block above.

    Attributes
    ----------
    top, bottom : nn.Module
    coupling : Parameter
        The free block.
    """

    def __init__(self, manifold: BlockTriangular, top: nn.Module, bottom: nn.Module, free: Tensor) -> None:
        super().__init__()
        self.manifold, self.top, self.bottom = manifold, top, bottom
        self.coupling = nn.Parameter(free.detach().clone())

    def extra_repr(self) -> str:
        """Say which view this is."""
        return 'view="trivialized"'

    def forward(self) -> Tensor:
        """Return the dense weight."""
        return self.manifold.join(self.top(), self.bottom(), self.coupling)

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Give each block its part of ``weight``; raises where one of them cannot have it."""
        require_shape(self(), weight)
        k = self.manifold.rows(weight.shape[-1])
        if (below := float(weight[..., k:, :k].abs().sum())) > tolerance(weight.dtype, weight.shape[-1]):
            raise OffManifoldError(
                "A block-triangular weight has zeros below the diagonal blocks.\n"
                f"Expected a sum of moduli of 0 there, got {below:.3g}.\nCheck split, or transpose the weight."
            )
        top, bottom, free = self.manifold.pieces(weight)
        for part, value in ((self.top, top), (self.bottom, bottom)):
            part.assign(value)  # type: ignore[operator]
        self.coupling.copy_(free)

    def set_retraction(self, retraction: Retraction | str) -> None:
        """Change the retraction of each block that has one to choose."""
        changed = [_changes(part, retraction) for part in (self.top, self.bottom)]
        if not any(changed):
            raise UnsupportedError(
                "No block of this weight has a retraction to change.\n"
                f"Expected Orthogonal() or the like among them, got retraction={retraction!r}.\n"
                "Release the weight and constrain it anew."
            )

    def check(self, state: dict[str, Any], prefix: str, own: str, module: nn.Module) -> None:
        """Let each block check what is to be loaded."""
        for name, part in (("top", self.top), ("bottom", self.bottom)):
            part.check(state, prefix, f"{own}{name}.", module)  # type: ignore[operator]


def _changes(part: Any, retraction: Retraction | str) -> bool:
    try:
        part.set_retraction(retraction)
    except (UnsupportedError, AttributeError):
        return False
    return True
