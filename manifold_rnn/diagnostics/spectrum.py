"""The spectrum of a matrix, its departure from normality, and its transient growth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..linalg import spectral_condition, spectral_radius
from ..linalg.norms import normalized
from .checks import require_dense
from .growth import EVERY_POWER, kreiss_constant, numerical_radius, transient_growth
from .plotting import axes_or_new
from .schur import SchurForm
from .sources import matrix_of, recurrent_matrix, require_levels
from .tables import aligned

if TYPE_CHECKING:
    import matplotlib.axes

EPS = (1e-8, 1e-4, 1e-2)
_MOST_ROUNDING = 1e-4  # n units of half precision can be 1
_MOST_CONDITIONED = 1e-6


@dataclass(frozen=True)
class Spectrum:
    r"""The eigenvalues of a matrix, and its difference from a normal matrix with these eigenvalues.

    Parameters
    ----------
    matrix : str
        Name of the matrix.
    eigenvalues : tuple of complex
        Eigenvalues of the matrix.
    singular_values : tuple of float
        Singular values in descending order.
    radius : float
        Spectral radius, computed by `manifold_rnn.linalg.spectral_radius`. It can be far below the largest modulus of
        ``eigenvalues``, because rounding errors move eigenvalues with large ``conditions``.
    norm : float
        Largest singular value.
    numerical_radius : float
        :math:`w = \max_\theta \lambda_{\max}(\tfrac12(e^{i\theta} W + e^{-i\theta} W^H))`.
        If it is at most 1, no power has a norm above 2.
    henrici : float
        :math:`(\|W\|_F^2 - \sum_i |\lambda_i|^2)^{1/2}` with the computed eigenvalues, 0 for normal matrices. For
        chains it is sensitive to rounding. Noise of 1e-14 in the entries of a chain changes it by a third. Compare it
        with ``commutator``, which such noise does not change.
    commutator : float
        :math:`\|W W^H - W^H W\|_F / \|W\|_F^2`, 0 for normal matrices.
    kreiss : float
        Lower bound of the Kreiss constant :math:`\sup_{|z|>1} (|z| - 1) \|(zI - W)^{-1}\|_2`. The Kreiss constant is a
        lower bound of ``transient``. It is infinite if the spectral radius is above 1.
    distance_to_instability : float
        :math:`\min_{|z|=1} s_{\min}(zI - W)`, the norm of the smallest complex perturbation that makes the spectral
        radius 1. It is 0 if the radius is 1 or more.
    conditions : tuple of float
        Condition numbers of the eigenvalues, in the same order. To first order, a perturbation of norm :math:`\epsilon`
        moves an eigenvalue by at most its condition number times :math:`\epsilon`. It is infinite for defective
        eigenvalues, and if double precision leaves no digit of the eigenvalue.
    transient : float
        :math:`\max_k \|W^k\|_2`. If the maximum occurs beyond k = 32, it is a lower bound, because only some of these
        powers are computed. It is infinite if the powers diverge or overflow.
    transient_step : int or None
        The power with this norm. 0 if no power is larger than the identity, None if the powers diverge.
    pseudo : mapping from float to float
        Pseudospectral radius for each size :math:`\epsilon` of a perturbation: the largest modulus of an eigenvalue of
        :math:`W + E` with :math:`\|E\|_2 \le \epsilon`.

    Examples
    --------
    >>> spectrum = mr.diagnostics.spectrum(torch.tensor([[0.5, 10.0], [0.0, 0.4]]))
    >>> assert abs(spectrum.radius - 0.5) < 1e-6 and spectrum.norm > 10 and spectrum.transient_step == 1
    """

    matrix: str
    eigenvalues: tuple[complex, ...]
    singular_values: tuple[float, ...]
    radius: float
    norm: float
    numerical_radius: float
    henrici: float
    commutator: float
    kreiss: float
    distance_to_instability: float
    conditions: tuple[float, ...]
    transient: float
    transient_step: int | None
    pseudo: Mapping[float, float]

    @property
    def moduli(self) -> list[float]:
        """Moduli of the eigenvalues, in ascending order."""
        return sorted(abs(value) for value in self.eigenvalues)

    def table(self) -> str:
        """Return one line for each number."""
        moduli, sizes = self.moduli, self.singular_values
        step = "the powers diverge" if self.transient_step is None else f"at k = {self.transient_step}"
        step += ", a lower bound" if (self.transient_step or 0) > EVERY_POWER else ""
        rows = [
            ("spectral radius", self.radius, "growth of W^k for large k"),
            ("norm", self.norm, f"largest singular value; the smallest is {sizes[-1]:.4g}"),
            ("numerical radius", self.numerical_radius, "at most 1: no power has a norm above 2"),
            ("henrici", self.henrici, "0 if normal; sensitive to rounding"),
            ("commutator", self.commutator, "0 if normal; not sensitive"),
            ("condition", max(self.conditions), "of the most sensitive eigenvalue"),
            ("transient growth", self.transient, f"largest norm of W^k, {step}"),
            ("kreiss", self.kreiss, "lower bound of the transient growth"),
            ("to instability", self.distance_to_instability, "smallest perturbation that gives radius 1"),
            *((f"radius at {eps:.3g}", value, "after the worst perturbation") for eps, value in self.pseudo.items()),
        ]
        head = f"spectrum of {self.matrix}: moduli from {moduli[0]:.4g} to {moduli[-1]:.4g}"
        head += f", median {median(moduli):.4g}"
        return aligned(head, [(name, f"{value:.5g}", what) for name, value, what in rows])

    def plot(self, axes: "matplotlib.axes.Axes | None" = None) -> "matplotlib.axes.Axes":
        """Draw the eigenvalues, the unit circle, and circles of the pseudospectral radii."""
        from matplotlib.patches import Circle

        axes = axes_or_new(axes)
        axes.add_patch(Circle((0, 0), 1, fill=False, edgecolor="0.6", label="unit circle"))
        for k, (eps, radius) in enumerate(self.pseudo.items()):
            label = f"radius at {eps:.3g}"
            axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor=f"C{k + 1}", linestyle="--", label=label))
        points = self.eigenvalues
        axes.scatter([z.real for z in points], [z.imag for z in points], s=14, label="eigenvalues", zorder=3)
        reach = 1.06 * max(1.1, *self.moduli, *self.pseudo.values())
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=f"spectrum of {self.matrix}")
        axes.set(xlabel="real part", ylabel="imaginary part")
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize="small")
        return axes


def eigenvalues(source: Tensor | nn.Module) -> tuple[complex, ...]:
    """Return the eigenvalues of a matrix or of the recurrent matrix of a module, in double precision.

    This is much faster than `spectrum`. A run computes them in every epoch, so a matrix that is not finite does not
    raise an error.

    Parameters
    ----------
    source : Tensor, shape (n, n), or nn.Module
        As for `spectrum`.

    Returns
    -------
    tuple of complex
        The eigenvalues. The tuple is empty if an entry of the matrix is not finite.

    Raises
    ------
    OptionError
        If the module has no recurrent matrix.
    ShapeError
        If the matrix is not square.

    Examples
    --------
    >>> assert mr.diagnostics.eigenvalues(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))[0].imag in (1, -1)
    """
    weight = source if isinstance(source, Tensor) else recurrent_matrix(source).weight
    require_dense(weight, "eigenvalues")
    if not weight.isfinite().all():
        return ()
    values: list[complex] = torch.linalg.eigvals(matrix_of(weight, "eigenvalues").weight).tolist()
    return tuple(values)


def spectrum(source: Tensor | nn.Module, *, eps: Sequence[float] = EPS) -> Spectrum:
    r"""Measure the spectrum of a matrix, its departure from normality, and its transient growth.

    Parameters
    ----------
    source : Tensor, shape (n, n), or nn.Module
        A real or complex matrix, or a module with a recurrent layer (see `recurrent_matrix`). The linear network is
        :math:`h_t = W h_{t-1}` with column states.
    eps : sequence of float
        Norms of the perturbations for ``pseudo``.

    Returns
    -------
    Spectrum

    Raises
    ------
    ShapeError
        If the matrix is not square or has no entry.
    NonFiniteError
        If an entry is NaN or infinite, or the norm exceeds the largest number.
    OptionError
        If the module has no recurrent matrix, or a perturbation is not positive.

    Notes
    -----
    One complex Schur form :math:`W = Q T Q^H` gives the eigenvalues, their condition numbers and all norms of
    resolvents (see `pseudospectrum`). The real form of a complex matrix has the same numbers, with three exceptions.
    Each eigenvalue occurs twice, ``henrici`` is multiplied by :math:`\sqrt 2`, and ``commutator`` is divided by it.

    A spectral radius slightly above 1 counts as 1. It may exceed 1 by ``n`` rounding units of the dtype of the matrix,
    and by at most 1e-4. Rounding moves an eigenvalue with a large condition number further. So this number multiplies
    the units, up to 1e-6.

    All powers up to k = 32 are computed, then 16 in each octave up to :math:`2^{16}`, and finally all powers around the
    largest of them. The search ends at the first power with a norm below 1, because no later power exceeds the earlier
    ones. If norms oscillate, a power in between can be up to 10% larger, so ``transient`` is a lower bound beyond k =
    32. The powers count as divergent if the norm still grows at the end and the radius is 1 up to rounding.

    Pseudospectral radii and the distance to instability are accurate to about eight digits. They are not accurate below
    ``eps`` times the Frobenius norm of the matrix, because rounding the matrix is a perturbation of this size. Sources:
    Henrici (1962); Trefethen and Embree (2005), chapters 16 and 39; Kreiss (1962).

    Examples
    --------
    >>> chain = torch.ones(19).diag(-1)  # nilpotent, but a perturbation of 1e-8 gives a radius of 0.4
    >>> spectrum = mr.diagnostics.spectrum(chain, eps=(1e-8,))
    >>> assert spectrum.radius == 0 and abs(spectrum.pseudo[1e-8] - 0.40) < 0.01
    >>> assert spectrum.commutator > 0.07 and set(spectrum.conditions) == {torch.inf}
    """
    levels = require_levels(eps, "spectrum")
    name, W = matrix_of(source, "spectrum")
    form = SchurForm.of(W, float(spectral_radius(W)))
    slack = _slack(
        W, form.radius, source.dtype if isinstance(source, Tensor) else recurrent_matrix(source).weight.dtype
    )
    scaled, unit = normalized(W)
    squares = torch.linalg.matrix_norm(scaled).square()
    commutator = torch.linalg.matrix_norm(scaled @ scaled.mH - scaled.mH @ scaled)
    singular = torch.linalg.svdvals(scaled) * unit.squeeze()
    transient, step = transient_growth(W, form.radius, slack)
    values: list[complex] = form.T.diagonal().tolist()
    return Spectrum(
        matrix=name,
        eigenvalues=tuple(values),
        singular_values=tuple(singular.tolist()),
        radius=form.radius,
        norm=float(singular[0]),
        numerical_radius=numerical_radius(W, float(singular[0]), form.radius),
        henrici=float(torch.linalg.matrix_norm(form.T.triu(1) / unit) * unit),
        commutator=float(commutator / squares) if squares > 0 else 0.0,
        kreiss=min(kreiss_constant(form, slack), transient),
        distance_to_instability=form.circle_minimum(1.0) if form.radius < 1 else 0.0,
        conditions=tuple(form.conditions.tolist()),
        transient=transient,
        transient_step=step,
        pseudo=dict(zip(levels, form.pseudospectral_radii(levels), strict=True)),
    )


def _slack(W: Tensor, radius: float, dtype: torch.dtype) -> float:
    """Return how much rounding of the entries in ``dtype`` can change a spectral radius of 1."""
    unit = torch.finfo(dtype if dtype.is_floating_point or dtype.is_complex else W.dtype).eps
    rounding = min(_MOST_ROUNDING, len(W) * unit)
    if rounding >= _MOST_CONDITIONED or abs(radius - 1) > _MOST_CONDITIONED:
        return rounding
    return max(rounding, min(_MOST_CONDITIONED, rounding * float(spectral_condition(W))))
