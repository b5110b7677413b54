"""Conversions of modules in which some parameters are real and others complex."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from ..errors import DtypeError


class KeepsReal(nn.Module):
    """A module whose real parameters, and those of its children, stay real when it is converted to a complex dtype."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Convert like torch, but give a real tensor the real dtype of the same precision."""

        def kept(t: Tensor) -> Tensor:
            converted = fn(t)
            return converted.real.clone() if converted.is_complex() and not t.is_complex() else converted

        return super()._apply(kept, recurse)


class KeepsKind(KeepsReal):
    """A module that stays real, or complex, as it was built."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Convert like torch, but raise `DtypeError` between real and complex, and change nothing of it."""
        dtypes = [p.dtype for p in self.parameters() if p.is_floating_point() or p.is_complex()]
        if not dtypes:  # a wrapper holds them, such as FSDP
            return super()._apply(fn, recurse)
        before = next((dtype for dtype in dtypes if dtype.is_complex), dtypes[0])
        after = fn(torch.empty(0, dtype=before)).dtype
        if after.is_complex != before.is_complex:
            kind = "complex" if before.is_complex else "real"
            raise DtypeError(
                f"{type(self).__name__} stays {kind}, because its weights have other shapes and meanings otherwise.\n"
                f"Expected a conversion of {before} to a {kind} dtype, got one to {after}.\n"
                f"This layer was not changed. Build a new layer with dtype={after}."
            )
        return super()._apply(fn, recurse)
