"""The products of a scan: of a step with the recurrent matrix, and of many steps with each other."""

import torch
from torch import Tensor

from ...._torch import has_onednn, onednn_linear
from ....linalg.product import ONEDNN_FROM

_OUTER_FROM = 6 << 20  # multiplications from which oneDNN is faster for a product over many steps


class Products:
    r"""Products with the matrix ``W`` of a scan over a batch of ``B``, by BLAS.

    Parameters
    ----------
    W : Tensor, shape (n, n)
    """

    def __init__(self, W: Tensor) -> None:
        self.transposed, self.conjugate = W.mT, W.conj().resolve_conj()

    def onward(self, z: Tensor, h: Tensor) -> Tensor:
        """Return ``z + h W^T``, in the place of ``z`` or not."""
        return torch.addmm(z, h, self.transposed, out=z)

    def back(self, g: Tensor | None, d: Tensor, out: Tensor) -> Tensor:
        """Return ``g + d conj(W)``, in ``out`` or not."""
        return torch.mm(d, self.conjugate, out=out) if g is None else torch.addmm(g, d, self.conjugate, out=out)


class OneDnnProducts(Products):
    """The same by oneDNN, in single precision on a CPU: through the calls that torch's compiler makes."""

    def __init__(self, W: Tensor) -> None:
        super().__init__(W)
        self.onward_weight, self.back_weight = W.contiguous(), W.mT.contiguous()

    def onward(self, z: Tensor, h: Tensor) -> Tensor:
        y: Tensor = onednn_linear().binary(h, z, self.onward_weight, None, "add")
        return y

    def back(self, g: Tensor | None, d: Tensor, out: Tensor) -> Tensor:
        if g is not None:
            y: Tensor = onednn_linear().binary(d, g.contiguous(), self.back_weight, None, "add")
        else:
            y = onednn_linear()(d, self.back_weight, None, "none", [], None)
        return y


def products(W: Tensor, batch: int) -> Products:
    """Return the fastest products with ``W`` for states (batch, n)."""
    return OneDnnProducts(W) if _by_onednn(W, batch * W.numel() >= ONEDNN_FROM) else Products(W)


def add_outer(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add ``a^T conj(b)`` of matrices with many rows to ``total``."""
    if _by_onednn(a, len(a) * total.numel() >= _OUTER_FROM):
        total.add_(onednn_linear()(a.mT, b.mT, None, "none", [], None))
    else:
        torch.addmm(total, a.mT, b.conj(), out=total)


def _by_onednn(x: Tensor, large: bool) -> bool:
    return large and x.device.type == "cpu" and x.dtype == torch.float32 and has_onednn()
