"""Orthogonal and unitary matrices as products of layers of plane rotations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..._options import is_integer
from ...errors import OptionError
from ...linalg.checks import require_matrix
from ...linalg.givens import Layers, on_circle, rotated
from ...linalg.precision import complex_dtype, double
from ...manifolds import SpecialOrthogonal, Unitary
from ..constraint import Constraint
from ..membership import measured_defect
from ..parametrization import Parametrization

_MOST_LAYERS = 2**16


@dataclass(frozen=True, eq=False)
class Rotations(Constraint):
    r"""Products of layers of plane rotations. Complex weights also have phases.

    .. math:: W = D\, G_L \cdots G_1, \qquad
        \begin{pmatrix} h_a \\ h_b \end{pmatrix} \mapsto
        \begin{pmatrix} \cos\theta & -e^{i\phi}\sin\theta \\ \sin\theta & e^{i\phi}\cos\theta \end{pmatrix}
        \begin{pmatrix} h_a \\ h_b \end{pmatrix}.

    Here :math:`D = \operatorname{diag}(e^{i\omega_j})`. For real weights all phases are 0, and the determinant is 1.

    Parameters
    ----------
    layout : "tunable" or "fft"
        With "tunable", layers rotate the pairs (0, 1), (2, 3) and so on, and (1, 2), (3, 4) and so on, in turn. With
        "fft", layers rotate pairs at distances 1, 2, 4 and so on, as in a fast Fourier transform.
    layers : int, optional
        The number ``L`` of layers for "tunable". Default: n, which reaches every rotation or unitary matrix. "fft"
        always has :math:`\log_2 n` layers.

    Raises
    ------
    OptionError
        If ``layout`` is unknown, or ``layers`` is below 1 or given for "fft". By `constrain`, if the size of a weight
        for "fft" is not a power of 2.

    Notes
    -----
    A complex weight has L(n - 1) + n real numbers for an even L or odd n, which is n² for L = n. With "fft" it has
    :math:`n \log_2 n + n`. A real weight has only the angles :math:`\theta`: half as many, without the last n.
    ``multiply`` of the module takes O(nL) operations for each state, and the dense weight O(n²L). The backward pass
    recomputes states by inverting the layers, so memory does not grow with their number.

    The parameters ``angles``, ``phases`` and ``last_phases`` (of ``D``) are real, and start uniform in ±π. Only shape
    and dtype of a given weight are used, and no weight can be assigned. Source: Jing et al. (2017).

    Examples
    --------
    >>> rnn = mr.nn.RNN(2, 8, constraint=mr.Rotations(layers=2), view="trivialized")
    >>> assert mr.linalg.defect(rnn.weight_hh_l0) < 1e-5
    >>> assert mr.degrees_of_freedom(rnn.constraints) == 7
    """

    layout: Literal["tunable", "fft"] = "tunable"
    layers: int | None = None

    def __post_init__(self) -> None:
        if self.layout not in ("tunable", "fft"):
            raise OptionError(
                f"layout of Rotations is unknown.\nExpected 'tunable' or 'fft', got "
                f"{self.layout!r}.\nCheck the spelling."
            )
        counts = is_integer(self.layers, 1) and int(self.layers or 0) <= _MOST_LAYERS
        if self.layers is not None and (self.layout == "fft" or not counts):
            raise OptionError(
                f"Rotations has 1 to {_MOST_LAYERS:,} layers with layout 'tunable', and a fixed number with 'fft'.\n"
                f"Got layout={self.layout!r} and layers={self.layers!r:.40}.\nLeave layers out, or correct it."
            )

    def trivialize(self, like: Tensor) -> RotationsParametrization:
        """Return the parametrization of a random weight with the shape and dtype of ``like``."""
        require_matrix(like, "Rotations")
        return RotationsParametrization(like, self.rotation_layers(like.shape[-1]))

    def rotation_layers(self, n: int) -> Layers:
        """Return for each layer its first coordinate, the distance within a pair, and the number of pairs."""
        if self.layout == "tunable":
            layers = [(k % 2, 1, (n - k % 2) // 2) for k in range(n if self.layers is None else self.layers)]
            return tuple(layer for layer in layers if layer[2])
        if n & (n - 1):
            raise OptionError(
                f"The layout 'fft' of Rotations does not support this size.\nExpected a power of 2, got n = {n}.\n"
                "Change the size, or use the layout 'tunable'."
            )
        return tuple((0, 1 << k, n // 2) for k in range(n.bit_length() - 1))


class RotationsParametrization(Parametrization):
    """Layers of rotations with real ``angles``; complex weights also have ``phases`` and ``last_phases``."""

    def __init__(self, like: Tensor, layers: Layers) -> None:
        super().__init__()
        self.layers, self.size = layers, like.shape[-1]
        self.manifold = Unitary() if like.is_complex() else SpecialOrthogonal()
        rotations, batch = sum(pairs for *_, pairs in layers), like.shape[:-2]
        self.angles = nn.Parameter(like.real.new_empty(*batch, rotations))
        complex_ = like.is_complex()
        self.phases = nn.Parameter(torch.empty_like(self.angles)) if complex_ else None
        self.last_phases = nn.Parameter(like.real.new_empty(*batch, self.size)) if complex_ else None
        self.reset()

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw new angles, uniform on the circle."""
        for p in self.parameters():
            p.uniform_(-math.pi, math.pi, generator=generator)

    @torch.no_grad()
    def defect(self) -> Tensor:
        return measured_defect(self.manifold, self())

    def forward(self) -> Tensor:
        real = self.angles.dtype
        eye = torch.eye(
            self.size, dtype=real if self.phases is None else complex_dtype(real), device=self.angles.device
        )
        wide = double(eye).expand(*self.angles.shape[:-1], -1, -1)  # in single precision, many layers add up errors
        return self.multiply(wide).mT.to(eye.dtype)

    def multiply(self, h: Tensor) -> Tensor:
        """Return ``W h`` for every row of ``h``, shape (..., B, n), by the layers, in the precision of ``h``."""
        angles, phases, last = (
            None if p is None else p.to(h.real.dtype) for p in (self.angles, self.phases, self.last_phases)
        )
        assert angles is not None
        h = rotated(h, angles, phases, self.layers)
        return h if last is None else h * on_circle(last).unsqueeze(-2)
