"""Time steps of a damped rotation: Euler's, the exact one, or Cayley's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ...errors import OffManifoldError, OptionError
from ...linalg import cayley, expm_skew, logm_unitary, pack_skew, skew, unpack_skew
from ...linalg.checks import require_finite, require_matrix
from ...linalg.lu import inverse_ex
from ...linalg.precision import complex_dtype, double, without_autocast
from ...manifolds import Contraction, Manifold, SpecialOrthogonal, Unitary
from ..constraint import Constraint
from ..membership import measured_defect, projected, require_reached, small_rotation
from ..parametrization import Parametrization, require_shape

METHODS = ("euler", "exp", "cayley")


@dataclass(frozen=True, eq=False)
class DampedSkew(Constraint):
    r"""A time step of :math:`\dot h = (K - gI)h`, a damped rotation with a free skew-Hermitian ``K``.

    .. math::
        W = \Phi(\epsilon (K - gI)), \qquad K^{\mathsf H} = -K, \qquad
        \Phi(M) = \begin{cases} I + M & \text{euler} \\ e^{M} & \text{exp} \\
        (I - \tfrac12 M)^{-1} (I + \tfrac12 M) & \text{cayley.} \end{cases}

    Parameters
    ----------
    damping : float
        ``g``, at least 0.
    step_size : float
        :math:`\epsilon`, positive.
    method : "euler", "exp" or "cayley"
        The step :math:`\Phi`.
    residual : bool
        Whether the recurrence adds the step to the state itself, like `manifold_rnn.nn.cells.Euler` with the same
        ``step_size``. Then :math:`W = (\Phi - I)/\epsilon`, which is :math:`K - gI` for "euler".

    Raises
    ------
    OptionError
        If ``damping`` is negative, ``step_size`` is not positive, or ``method`` is unknown.

    Notes
    -----
    For "exp" and "cayley", all eigenvalues of :math:`\Phi` have moduli of at most 1 for every ``K``, and below 1 if
    ``g`` is positive. For "exp", :math:`\Phi` is :math:`e^{-\epsilon g}` times a rotation. For "euler" the moduli are
    at most 1 only if :math:`\omega^2 \le 2g/\epsilon - g^2` for the largest frequency :math:`\omega` of ``K``. An
    antisymmetric ``K`` alone does not make Euler steps stable. Check it with ``radius()`` and ``stable()`` of the
    module in ``constraints``.

    ``K`` has the real ``coordinates`` of `manifold_rnn.linalg.pack_skew`: n(n - 1)/2 for real weights and n² for
    complex ones. They start, and are assigned, so that ``W`` is near the given weight. For "euler" ``W`` is the nearest
    one. For "exp" it is computed from the nearest rotation, for "cayley" from the skew part of the inverse map. Source:
    Chang, Chen, Haber and Chi (2019) for "euler".

    Examples
    --------
    >>> step = mr.DampedSkew(damping=0.1, method="exp")
    >>> rnn = mr.nn.RNN(2, 4, constraint=step, view="trivialized")
    >>> assert torch.isclose(mr.linalg.spectral_radius(rnn.weight_hh_l0), torch.tensor(-0.1).exp())
    """

    damping: float = 0.01
    step_size: float = 1.0
    method: Literal["euler", "exp", "cayley"] = "euler"
    residual: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise OptionError(
                f"method of DampedSkew is unknown.\nExpected one of {', '.join(map(repr, METHODS))}, got "
                f"{self.method!r}.\nCheck the spelling."
            )
        if not (0 <= self.damping < math.inf and 0 < self.step_size < math.inf):
            raise OptionError(
                "damping or step_size of DampedSkew is out of range.\nExpected damping of at least 0 and a "
                f"positive step_size, both finite; got {self.damping} and {self.step_size}.\nCorrect the value."
            )

    def trivialize(self, like: Tensor) -> DampedSkewParametrization:
        """Return the parametrization of a weight ``W`` near ``like``."""
        require_matrix(like, "DampedSkew")
        require_finite(like, "the weight of DampedSkew")
        return DampedSkewParametrization(self, like)


class DampedSkewParametrization(Parametrization):
    """A time step of a damped rotation, from the ``coordinates`` of its skew-Hermitian matrix."""

    def __init__(self, constraint: DampedSkew, like: Tensor) -> None:
        super().__init__()
        self.constraint, self.complex_ = constraint, like.is_complex()
        self.coordinates = nn.Parameter(self._coordinates_near(like))

    @property
    def manifold(self) -> Manifold | None:
        """The manifold that contains the weight, or None."""
        inside = self.constraint.method != "euler" and not self.constraint.residual
        return Contraction() if inside else None

    @torch.no_grad()
    def defect(self) -> Tensor | None:
        return None if self.manifold is None else measured_defect(self.manifold, self())

    def skew(self) -> Tensor:
        """Return ``K``."""
        return self._unpacked(self.coordinates)

    def _unpacked(self, c: Tensor) -> Tensor:
        return unpack_skew(c, complex_dtype(c.dtype) if self.complex_ else c.dtype)

    def forward(self) -> Tensor:
        with without_autocast(self.coordinates):
            return self._weight(self.skew())

    def _weight(self, K: Tensor) -> Tensor:
        g, eps, residual = self.constraint.damping, self.constraint.step_size, self.constraint.residual
        eye = torch.eye(K.shape[-1], dtype=K.dtype, device=K.device)
        if self.constraint.method == "euler":
            M = K - g * eye
            return M if residual else eye + eps * M
        if self.constraint.method == "exp":
            step = math.exp(-eps * g) * expm_skew(eps * K)
        else:
            c = 0.5 * eps * g  # computes (I - M/2)^-1 (I + M/2) from the transform of a skew matrix alone
            step = (cayley(eps / (1 + c) * K) - c * eye) / (1 + c)
        return (step - eye) / eps if residual else step

    @torch.no_grad()
    def radius(self) -> Tensor:
        r"""Return the spectral radius of :math:`\Phi`, shape (...), from the frequencies of ``K``."""
        g, eps = self.constraint.damping, self.constraint.step_size
        frequency = torch.linalg.eigvalsh(1j * self.skew()).abs().amax(-1)
        if self.constraint.method == "exp":
            return torch.full_like(frequency, math.exp(-eps * g))
        if self.constraint.method == "euler":
            return torch.hypot(eps * frequency, torch.full_like(frequency, 1 - eps * g))
        c, s = 0.5 * eps * g, 0.5 * eps * frequency
        return torch.hypot(s, torch.full_like(s, 1 - c)) / torch.hypot(s, torch.full_like(s, 1 + c))

    def stable(self) -> bool:
        """Return whether no state grows without inputs. This is always true except for Euler's step."""
        return self.constraint.method != "euler" or bool((self.radius() <= 1).all())

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Compute the coordinates of ``K``; raises if no ``K`` gives ``weight``."""
        require_shape(self(), weight)
        require_finite(weight, "the assigned weight")
        coordinates = self._coordinates_near(weight)
        require_reached("DampedSkew", self._weight(self._unpacked(coordinates)), weight)
        self.coordinates.copy_(coordinates)

    @torch.no_grad()
    def _coordinates_near(self, weight: Tensor) -> Tensor:
        if weight.is_meta:
            return pack_skew(weight)
        method, eps = self.constraint.method, self.constraint.step_size
        W = double(weight.detach())
        eye = torch.eye(W.shape[-1], dtype=W.dtype, device=W.device)
        step = eye + eps * W if self.constraint.residual else W
        if method == "euler":
            K = skew(step) / eps
        elif method == "exp":
            group = Unitary() if W.is_complex() else SpecialOrthogonal()
            Q = projected(group, step)
            try:
                K = logm_unitary(Q) / eps
            except OffManifoldError:
                K = logm_unitary(Q @ small_rotation(Q)) / eps
        else:
            inverse, info = inverse_ex(eye + step)
            K = skew((step - eye) @ inverse) * (2 / eps)
            K = torch.where((info == 0)[..., None, None], K, 0)  # an eigenvalue -1 corresponds to an infinite K
        return pack_skew(K).to(weight.real.dtype)
