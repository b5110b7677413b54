"""Singular values of long matrix products, beyond the range of floating-point numbers."""

import torch
from torch import Tensor

_RESOLVED = 1e-9  # an ordinary SVD has six digits for singular values above this fraction of the largest
_ROTATIONS = 12


class Product:
    r"""A product of square matrices up to an orthogonal factor on the left, :math:`P = Q\, e^{\ell} U`.

    The largest entry of each row of U is 1. The logarithms :math:`\ell` of the row sizes are stored separately, so
    nothing overflows or underflows.

    Parameters
    ----------
    batch : int
        Number of products.
    size : int
        Number of rows.
    device : torch.device
        Device of the factors.
    """

    def __init__(self, batch: int, size: int, device: torch.device) -> None:
        eye = torch.eye(size, dtype=torch.float64, device=device)
        self.Q = eye.expand(batch, size, size)
        self.logs, self.U = eye.new_zeros(batch, size), self.Q

    def multiply(self, factor: Tensor) -> None:
        """Replace P by ``factor P``, where ``factor`` is of shape (B, N, N)."""
        order = self.logs.argsort(-1, descending=True)  # so that small rows are not added to large ones
        logs, U = self._in_order(order)
        self.Q, R = torch.linalg.qr(factor.double() @ self.Q.gather(-1, order[:, None].expand_as(self.Q)))
        self.logs, scaled = _scaled(R, logs)
        self.logs, self.U = _normalized(self.logs, scaled @ U)

    def log_singular_values(self) -> Tensor:
        """Return the natural logarithms of the singular values in descending order, (B, N).

        Values far below the largest are computed by repeated orthogonal decompositions, and are accurate to about 1%.
        """
        top = self.logs.amax(-1, keepdim=True)
        top = torch.where(top.isfinite(), top, 0)
        values = torch.linalg.svdvals((self.logs - top).exp()[..., None] * self.U)
        resolved = values > _RESOLVED * values[..., :1]
        logs = values.log() + top
        if bool(resolved.all()):
            return logs
        return torch.where(resolved, logs, self._by_rotations())

    def _by_rotations(self) -> Tensor:
        """Return the logarithms by repeated QR of the transpose, which converges to a diagonal matrix."""
        product = Product(len(self.logs), self.logs.shape[-1], self.logs.device)
        product.logs, product.U = self.logs, self.U
        for _ in range(_ROTATIONS):
            logs, U = product._in_order(product.logs.argsort(-1, descending=True))
            product.logs, product.U = _normalized(*_scaled(torch.linalg.qr(U.mT)[1], logs))
        logs = product.logs + product.U.diagonal(dim1=-2, dim2=-1).abs().log()
        return torch.where(logs.isnan(), -torch.inf, logs).sort(-1, descending=True)[0]

    def _in_order(self, order: Tensor) -> tuple[Tensor, Tensor]:
        return self.logs.gather(-1, order), self.U.gather(-2, order[..., None].expand_as(self.U))


def median(logs: Tensor) -> Tensor:
    """Return the median along the first axis. For an even number it is the mean of the middle two."""
    ordered, count = logs.sort(0)[0], len(logs)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2


def _scaled(R: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sizes of the rows of ``R exp(logs)`` and the rows divided by them."""
    weights = R.abs().log() + logs[:, None]
    largest = weights.amax(-1)
    largest = torch.where(largest.isfinite(), largest, 0)
    return largest, R.sgn() * (weights - largest[..., None]).exp()


def _normalized(logs: Tensor, U: Tensor) -> tuple[Tensor, Tensor]:
    """Divide the rows by their largest entry. A row of zeros has size 0."""
    size = U.abs().amax(-1)
    return torch.where(size > 0, logs + size.log(), -torch.inf), U / torch.where(size > 0, size, 1)[..., None]
