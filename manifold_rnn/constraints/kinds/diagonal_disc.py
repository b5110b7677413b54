"""Complex diagonal matrices with eigenvalues in a disc."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...errors import DtypeError
from ...linalg.checks import require_finite, require_matrix
from ...manifolds.unit_disc import require_radius, uniform_on_disc
from ..constraint import Constraint
from ..membership import require_reached
from ..parametrization import Parametrization, require_shape
from . import disc_parameters


@dataclass(frozen=True, eq=False)
class DiagonalDisc(Constraint):
    r"""Complex diagonal matrices with all eigenvalues inside a disc.

    .. math:: W = r \operatorname{diag}(e^{-e^{\nu_j} + i\theta_j}).

    The disc is open: it excludes its boundary, and 0. A linear recurrence with such a weight runs in parallel over
    time, see `manifold_rnn.nn.scan.associative`.

    Parameters
    ----------
    radius : float
        ``r``, positive.

    Raises
    ------
    OptionError
        If ``radius`` is not a positive number.
    DtypeError
        By `constrain`, if the weight is real.

    Notes
    -----
    A starting weight is replaced by its diagonal, with moduli reduced to at most ``1 - 1e-4`` of the radius. Source:
    Orvieto et al. (2023).

    Examples
    --------
    >>> options = {"dtype": torch.complex64, "view": "trivialized", "constraint": mr.DiagonalDisc()}
    >>> layer = mr.nn.Layer(mr.nn.cells.LRU(), 2, 3, **options)
    >>> assert layer.weight_hh_l0.diagonal().abs().max() < 1
    """

    is_complex: ClassVar[bool | None] = True
    radius: float = 1.0

    def __post_init__(self) -> None:
        require_radius(self.radius, "DiagonalDisc")

    def trivialize(self, like: Tensor) -> DiagonalDiscParametrization:
        require_matrix(like, "DiagonalDisc")
        if not like.is_complex():
            raise DtypeError(
                "DiagonalDisc needs a complex weight.\n"
                f"Expected complex64 or complex128, got {like.dtype}.\nFor real matrices use SchurDisc."
            )
        require_finite(like, "the weight")
        return DiagonalDiscParametrization(self, like)

    def random_like(self, like: Tensor) -> Tensor:
        return self.random(*like.shape, dtype=like.dtype, device=like.device)

    def random(
        self,
        *size: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return random diagonal matrices with eigenvalues uniform on the disc.

        Parameters
        ----------
        *size : int
            The shape ``..., n, n``.
        dtype : torch.dtype, optional
            A complex dtype. Default: the complex dtype of torch's default precision.
        device : torch.device, optional
        generator : torch.Generator, optional

        Returns
        -------
        Tensor
        """
        like = torch.empty(size, dtype=dtype or torch.get_default_dtype().to_complex(), device=device)
        require_matrix(like, "DiagonalDisc: size")
        return torch.diag_embed(uniform_on_disc(like.shape[:-1], like, self.radius, generator))


class DiagonalDiscParametrization(Parametrization):
    r"""A complex diagonal matrix, :math:`\lambda_j = r\, e^{-e^{\nu_j} + i\theta_j}`.

    Parameters
    ----------
    constraint : DiagonalDisc
        The constraint with its radius.
    like : Tensor, complex, shape (..., n, n)
        The starting weight. Entries off the diagonal are dropped, and moduli reduced to ``1 - 1e-4`` of the radius.

    Attributes
    ----------
    log_rate, phase : Parameter, real, shape (..., n)
        :math:`\nu` and :math:`\theta`.
    """

    is_diagonal = True

    def __init__(self, constraint: DiagonalDisc, like: Tensor) -> None:
        super().__init__()
        self.constraint = constraint
        log_rate, phase = self._parameters_of(like)
        self.log_rate, self.phase = nn.Parameter(log_rate), nn.Parameter(phase)

    def eigenvalues(self) -> Tensor:
        """Return the diagonal, which a recurrence can use without the matrix."""
        return self.constraint.radius * disc_parameters.polar_eigenvalues(torch.stack([self.log_rate, self.phase], -1))

    def forward(self) -> Tensor:
        return torch.diag_embed(self.eigenvalues())

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Set the parameters to the diagonal of ``weight``, slightly inside the disc; raises if it is not diagonal."""
        require_shape(self(), weight)
        require_finite(weight, "the assigned weight")
        solved = DiagonalDiscParametrization(self.constraint, weight)
        bound = disc_parameters.reach(weight, self.constraint.radius)
        require_reached(self.constraint, solved(), weight, bound)
        self.load_state_dict(solved.state_dict())

    @torch.no_grad()
    def defect(self) -> Tensor:
        """The distance of the largest modulus outside of the disc, relative to the radius."""
        moduli = self.eigenvalues().to(torch.complex128).abs()
        return (moduli / self.constraint.radius - 1).clamp(min=0).max()

    def _parameters_of(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        entries = weight.detach().diagonal(dim1=-2, dim2=-1).to("cpu", torch.complex128) / self.constraint.radius
        raw = torch.from_numpy(disc_parameters.polar_parameters(entries.numpy())).to(weight.device, weight.real.dtype)
        return raw[..., 0].clone(), raw[..., 1].clone()
