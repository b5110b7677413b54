"""Orthogonal matrices as products of Householder reflections."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..._options import is_integer
from ...errors import OptionError
from ...linalg.checks import require_matrix
from ...linalg.householder import reflected, unit
from ...linalg.precision import double
from ...manifolds import Orthogonal, Unitary
from ..constraint import Constraint
from ..membership import measured_defect
from ..parametrization import Parametrization


@dataclass(frozen=True, eq=False)
class Reflections(Constraint):
    r"""Orthogonal or unitary matrices as a product of Householder reflections.

    .. math:: W = H_1 \cdots H_m, \qquad H_j = I - 2 \frac{u_j u_j^{\mathsf H}}{\|u_j\|^2}.

    The first j - 1 entries of :math:`u_j` are 0. If m = n, the last factor is the sign matrix
    :math:`\operatorname{diag}(1, \dots, 1, u_{nn} / |u_{nn}|)`.

    Parameters
    ----------
    count : int, optional
        The number ``m`` of reflections, at most n. Default: n.

    Raises
    ------
    OptionError
        If ``count`` is below 1; by `constrain`, if it exceeds the size of the weight.

    Notes
    -----
    For real weights, det W = (-1)^m if m < n. With m = n every orthogonal matrix is reached; the sign then has no
    gradient and never changes. A vector that is exactly 0 is left out of the product.

    The parameter ``vectors`` has the nm - m(m - 1)/2 entries that are not fixed at 0, row by row. The product does not
    depend on the lengths of the vectors, so m of these numbers are redundant. Gradient descent makes the lengths grow.
    The vectors start with independent normal entries. Only shape and dtype of a given weight are used, and no weight
    can be assigned.

    ``multiply`` of the module takes O(nm) operations for each state. The dense weight takes O(n²m) in double precision:
    it is :math:`I - U S^{-1} U^{\mathsf H}` with :math:`S = \tfrac12 I + \operatorname{striu}(U^{\mathsf H} U)` for
    unit vectors.

    Source: Mhammedi, Hellicar, Rahman and Bailey (2017), who instead normalize the vectors after every step. The dense
    form is from Puglisi (1992).

    Examples
    --------
    >>> rnn = mr.nn.RNN(2, 8, constraint=mr.Reflections(3), view="trivialized")
    >>> assert torch.isclose(torch.det(rnn.weight_hh_l0), torch.tensor(-1.0))
    """

    count: int | None = None

    def __post_init__(self) -> None:
        if self.count is not None and not is_integer(self.count, 1):
            raise OptionError(
                "count of Reflections is out of range.\n"
                f"Expected an integer of at least 1, or None for all, got {self.count!r:.40}.\n"
                "Pass a positive number."
            )

    def trivialize(self, like: Tensor) -> ReflectionsParametrization:
        """Return the parametrization of a random weight with the shape and dtype of ``like``."""
        require_matrix(like, "Reflections")
        n = like.shape[-1]
        if self.count is not None and self.count > n:
            raise OptionError(
                f"A matrix of size {n} is a product of at most {n} reflections.\n"
                f"Expected count from 1 to {n}, got {self.count}.\nPass a smaller number, or None for all."
            )
        return ReflectionsParametrization(like, n if self.count is None else self.count)


class ReflectionsParametrization(Parametrization):
    """The product of the reflections in its ``vectors``."""

    places: Tensor

    def __init__(self, like: Tensor, count: int) -> None:
        super().__init__()
        n = like.shape[-1]
        self.size, self.count = n, count
        self.manifold = Unitary() if like.is_complex() else Orthogonal()
        i, j = torch.tril_indices(n, count, device="cpu")
        self.keep_constant("places", i * count + j, like.device)
        self.vectors = nn.Parameter(like.new_empty(*like.shape[:-2], len(i)))
        self.reset()

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw new vectors, with directions uniform on their spheres."""
        self.vectors.normal_(generator=generator)

    @torch.no_grad()
    def defect(self) -> Tensor:
        return measured_defect(self.manifold, self())

    def forward(self) -> Tensor:
        U, sign = self._factors(double(self.vectors))  # S is ill-conditioned if vectors are nearly dependent
        S = (U.mH @ U).triu(1)
        S.diagonal(dim1=-2, dim2=-1).fill_(0.5)
        eye = torch.eye(self.size, dtype=U.dtype, device=U.device)
        W = eye - U @ torch.linalg.solve_triangular(S, U.mH, upper=True)
        return torch.cat([W[..., :-1], W[..., -1:] * sign.unsqueeze(-1)], -1).to(self.vectors.dtype)

    def multiply(self, h: Tensor) -> Tensor:
        """Return ``W h`` for every row of ``h``, shape (..., B, n), without the dense weight."""
        U, sign = self._factors(self.vectors.to(h.dtype))
        h = torch.cat([h[..., :-1], h[..., -1:] * sign.unsqueeze(-1)], -1)
        for u in reversed(U.unbind(-1)):
            h = reflected(h, u)
        return h

    def _factors(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Return the unit vectors as columns (..., n, m), and the sign of the last column of ``W``."""
        n, m = self.size, self.count
        U = flat.new_zeros(*flat.shape[:-1], n * m).index_copy(-1, self.places, flat).unflatten(-1, (n, m))
        last = flat[..., -1:] if m == n else torch.ones_like(flat[..., -1:])
        sign = torch.where(last == 0, 1, last.sgn())
        return unit(U[..., : min(m, n - 1)].mT).mT, sign
