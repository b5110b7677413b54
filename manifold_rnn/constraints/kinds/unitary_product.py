"""The unitary matrices of uRNN: products of phases, reflections, a permutation and Fourier transforms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...errors import DtypeError, OffManifoldError
from ...linalg.checks import require_matrix
from ...linalg.householder import reflected, unit
from ...manifolds import Unitary
from ..constraint import Constraint
from ..membership import measured_defect
from ..parametrization import Parametrization


@dataclass(frozen=True, eq=False)
class UnitaryProduct(Constraint):
    r"""Unitary matrices as a product of structured unitary matrices, with 7n real parameters.

    .. math:: W = D_3 R_2 F^{-1} D_2 P R_1 F D_1, \qquad D_j = \operatorname{diag}(e^{i\theta_j}), \quad
        R_j = I - 2 \frac{v_j v_j^{\mathsf H}}{\|v_j\|^2}.

    Here ``F`` is the unitary Fourier transform and ``P`` a fixed permutation.

    Raises
    ------
    DtypeError
        By `constrain`, if the weight is real.

    Notes
    -----
    ``multiply`` of the module takes :math:`O(n \log n)` operations for each state, and the dense weight
    :math:`O(n^2 \log n)`. For n > 7 the products do not reach every unitary matrix (Wisdom et al., 2016).

    The parameter ``phases`` is real, of shape (3, n), and ``reflections`` is complex, of shape (2, n). The lengths of
    the reflection vectors have no effect. The buffer ``permutation`` is part of the ``state_dict``.

    Phases start uniform in ±π, both parts of the vectors uniform in :math:`\pm\sqrt{6/(2 + 2n)}`, and the permutation
    is random. Only shape and dtype of a given weight are used, and no weight can be assigned. Source: Arjovsky, Shah
    and Bengio (2016).

    Examples
    --------
    >>> options = {"nonlinearity": "modrelu", "dtype": torch.complex64, "view": "trivialized"}
    >>> rnn = mr.nn.RNN(2, 8, constraint=mr.UnitaryProduct(), **options)
    >>> assert mr.linalg.defect(rnn.weight_hh_l0) < 1e-5 and mr.degrees_of_freedom(rnn.constraints) == 7 * 8
    """

    is_complex: ClassVar[bool | None] = True

    def trivialize(self, like: Tensor) -> UnitaryProductParametrization:
        """Return the parametrization of a random weight with the shape and dtype of ``like``."""
        require_matrix(like, "UnitaryProduct")
        if not like.is_complex():
            raise DtypeError(
                "UnitaryProduct needs a complex weight.\n"
                f"Expected complex64 or complex128, got {like.dtype}.\n"
                "Use a layer with dtype=torch.complex64, or Rotations for a real one."
            )
        return UnitaryProductParametrization(like)


class UnitaryProductParametrization(Parametrization):
    """The product of its ``phases``, ``reflections`` and ``permutation``; a batch shares the permutation."""

    permutation: Tensor

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        batch, n = like.shape[:-2], like.shape[-1]
        self.manifold = Unitary()
        self.phases = nn.Parameter(like.real.new_empty(*batch, 3, n))
        self.reflections = nn.Parameter(like.new_empty(*batch, 2, n))
        self.register_buffer("permutation", torch.arange(n, device=like.device))
        self.reset()

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw all factors again."""
        n, bound = len(self.permutation), math.sqrt(6 / (2 + 2 * len(self.permutation)))
        self.phases.uniform_(-math.pi, math.pi, generator=generator)
        torch.view_as_real(self.reflections).uniform_(-bound, bound, generator=generator)
        self.permutation.copy_(torch.randperm(n, generator=generator, device=self.permutation.device))

    @torch.no_grad()
    def defect(self) -> Tensor:
        return measured_defect(self.manifold, self())

    def forward(self) -> Tensor:
        n, v = len(self.permutation), self.reflections
        return self.multiply(torch.eye(n, dtype=torch.complex128, device=v.device)).mT.to(v.dtype)

    def multiply(self, h: Tensor) -> Tensor:
        """Return ``W h`` for every row of ``h``, shape (..., B, n), by the factors, in the precision of ``h``."""
        phases = self.phases.to(h.real.dtype)
        D1, D2, D3 = torch.polar(torch.ones_like(phases), phases).unsqueeze(-2).unbind(-3)
        v1, v2 = unit(self.reflections.to(h.dtype)).unbind(-2)
        h = reflected(torch.fft.fft(h * D1, norm="ortho"), v1)
        h = torch.fft.ifft(h[..., self.permutation] * D2, norm="ortho")
        return reflected(h, v2) * D3

    def check(self, loaded: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
        """Check the tensors to load. Also raise if ``permutation`` is not a permutation."""
        permutation, n = loaded.get("permutation"), len(self.permutation)
        if isinstance(permutation, Tensor) and not permutation.is_meta and permutation.shape == (n,):
            numbers = torch.arange(n, dtype=permutation.dtype, device=permutation.device)
            if not torch.equal(permutation.sort().values, numbers):
                raise OffManifoldError(
                    f"{path}permutation must contain each number from 0 to {n - 1} once.\n"
                    f"Got {len(permutation.unique())} different numbers.\n"
                    "Nothing in its module was changed. Load the weight of a constrained model."
                )
        return super().check(loaded, path)
