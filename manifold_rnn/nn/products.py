"""Matrix products of a scan: with the recurrent matrix in one step, and over many steps."""

import torch
from torch import Tensor

from .._torch import has_onednn, onednn_linear

_PRODUCT_FROM = 3 << 19  # multiplications above which oneDNN is faster for the product of one step
_COPIED_FROM = 3 << 20  # the same, if operands must be copied first
_OUTER_PRODUCT_FROM = 6 << 20  # multiplications above which oneDNN is faster for a product over many steps


class Products:
    """Products of states (B, n) with the recurrent matrix ``W`` (n, n), by BLAS."""

    def __init__(self, W: Tensor) -> None:
        self.transposed, self.conjugate = W.mT, W.conj().resolve_conj()

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        """Return ``z + h W^T``, which may overwrite ``z``."""
        return torch.addmm(z, h, self.transposed, out=z)

    def add_to(self, z: Tensor, h: Tensor) -> None:
        """Add ``h W^T`` to ``z``, whose rows may be strided."""
        torch.addmm(z, h, self.transposed, out=z)

    def backward(self, g: Tensor | None, d: Tensor, out: Tensor) -> Tensor:
        """Return ``g + d conj(W)``, which may overwrite ``out``."""
        return torch.mm(d, self.conjugate, out=out) if g is None else torch.addmm(g, d, self.conjugate, out=out)


class OneDnnProducts(Products):
    """The same products by oneDNN in single precision on a CPU, through the operator that torch's compiler uses."""

    def __init__(self, W: Tensor) -> None:
        super().__init__(W)
        self.forward_weight, self.backward_weight = W.contiguous(), W.mT.contiguous()

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        y: Tensor = onednn_linear().binary(h, z, self.forward_weight, None, "add")
        return y

    def add_to(self, z: Tensor, h: Tensor) -> None:
        if h.shape[0] * self.forward_weight.numel() < _COPIED_FROM:
            super().add_to(z, h)
        else:
            z.copy_(self.forward(z.contiguous(), h))

    def backward(self, g: Tensor | None, d: Tensor, out: Tensor) -> Tensor:
        d = d.contiguous()  # strided rows are slower in oneDNN than a copy
        if g is not None:
            y: Tensor = onednn_linear().binary(d, g.contiguous(), self.backward_weight, None, "add")
        else:
            y = onednn_linear()(d, self.backward_weight, None, "none", [], None)
        return y


def products_with(W: Tensor, batch: int) -> Products:
    """Return the fastest products with ``W`` for states (batch, n)."""
    return OneDnnProducts(W) if _uses_onednn(W, batch * W.numel() >= _PRODUCT_FROM) else Products(W)


def add_outer(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add ``a^T conj(b)`` of matrices with many rows to ``total``."""
    if _uses_onednn(a, len(a) * total.numel() >= _OUTER_PRODUCT_FROM):
        a, b = a.contiguous(), b.contiguous()  # strided rows are slower in oneDNN than a copy
        total.add_(onednn_linear()(a.mT, b.mT, None, "none", [], None))
    else:
        torch.addmm(total, a.mT, b.conj(), out=total)


def _uses_onednn(x: Tensor, is_large: bool) -> bool:
    return is_large and x.device.type == "cpu" and x.dtype == torch.float32 and has_onednn()
