"""Fisher memory: the information about past inputs in the noisy state of a linear recurrent network."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import DtypeError, NonFiniteError, OptionError, ShapeError
from .checks import require_dense
from .plotting import axes_or_new
from .sources import input_matrix, matrix_of
from .stationary import root_of_sum, stationary_radius
from .tables import aligned

if TYPE_CHECKING:
    import matplotlib.axes

_MOST_STEPS = 10_000


@dataclass(frozen=True)
class FisherMemory:
    r"""Fisher memory of a linear network, :math:`h_t = W h_{t-1} + v s_t + z_t` with noise :math:`z_t \sim N(0, I)`.

    Parameters
    ----------
    matrix : str
        Name of the matrix.
    curve : tuple of float
        :math:`J(k)`, the Fisher information of the state about the input k steps ago, for k = 0, 1, and so on. It is
        the mean over the directions.
    totals : tuple of float
        :math:`\sum_{k \ge 0} J(k)` of each direction.
    bound : int
        Upper bound n of the total of every direction.
    best_total : float
        Largest total of any direction.
    best_direction : tuple of float or complex
        A unit vector with this total.
    noise : float
        Mean variance of the entries of the state.
    radius : float
        Spectral radius of the matrix.

    Examples
    --------
    >>> memory = mr.diagnostics.fisher_memory(torch.ones(9).diag(-1), torch.eye(10)[0])
    >>> assert abs(memory.total - sum(1 / k for k in range(1, 11))) < 1e-8
    """

    matrix: str
    curve: tuple[float, ...]
    totals: tuple[float, ...]
    bound: int
    best_total: float
    best_direction: tuple[float | complex, ...]
    noise: float
    radius: float

    @property
    def total(self) -> float:
        """Mean of the totals of the directions."""
        return sum(self.totals) / len(self.totals)

    def table(self) -> str:
        """Return one line for each number."""
        head = f"Fisher memory of {self.matrix}, {len(self.totals)} input directions"
        low, high = min(self.totals), max(self.totals)
        rows = [
            ("total", self.total, "sum of the curve; 1 for normal matrices"),
            ("of directions", low, f"least total; the largest is {high:.5g}"),
            ("best direction", self.best_total, f"largest total of any; at most {self.bound}"),
            ("noise", self.noise, "mean variance of an entry of the state"),
        ]
        return aligned(head, [(name, f"{value:.5g}", what) for name, value, what in rows])

    def plot(self, axes: "matplotlib.axes.Axes | None" = None) -> "matplotlib.axes.Axes":
        """Draw the curve."""
        axes = axes_or_new(axes)
        label = f"mean over directions, total {self.total:.4g}" if len(self.totals) > 1 else f"total {self.total:.4g}"
        axes.plot(range(len(self.curve)), self.curve, marker=".", label=label)
        axes.set(xlabel="steps since the input", ylabel="Fisher information", ylim=(0, None))
        axes.set_title(f"Fisher memory of {self.matrix}")
        axes.legend()
        return axes


def fisher_memory(source: Tensor | nn.Module, v: Tensor | None = None, *, steps: int | None = None) -> FisherMemory:
    r"""Compute the Fisher memory of the linear network of a matrix.

    .. math:: J(k) = (W^k v)^H C^{-1} W^k v, \qquad C = \sum_{j \ge 0} W^j (W^j)^H .

    Parameters
    ----------
    source : Tensor, shape (n, n), or nn.Module
        As for `spectrum`. The nonlinearity and the biases of a layer are left out.
    v : Tensor, shape (n,) or (n, m), optional
        Input directions, as columns. Their lengths have no effect. The default is the nonzero columns of the input
        matrix of the layer, or the n units for a matrix.
    steps : int, optional
        Length of the curve. By default the curve ends when less than 1e-6 of the totals remains, after at most 10,000
        steps. The totals always belong to the infinite curve.

    Returns
    -------
    FisherMemory

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError
        If the matrix is not square, an entry is not finite, or powers of the matrix overflow. If ``v`` does not fit the
        matrix, is complex for a real matrix, or has a column of zeros.
    OptionError
        If the spectral radius is not below 1, because the sum C diverges. If the module has no recurrent matrix, ``v``
        is not a tensor, or ``steps`` is below 1.

    Notes
    -----
    If ``W`` is normal, the total is 1 for every unit vector. The sum of the totals over the n units is n for every
    ``W``. So a non-normal matrix remembers some inputs longer at the cost of others.

    C is never computed, because it is too ill-conditioned to invert in double precision. Instead, R with :math:`C = R^H
    R` is computed by QR factorizations of :math:`[R; R P^H]` with :math:`P = W^{2^k}`. Then :math:`J(k) = \|R^{-H} W^k
    v\|^2`. The same doubling sums the powers of the contraction :math:`R^{-H} W R^H`, which gives the totals of all
    directions.

    Sources: Ganguli, Huh and Sompolinsky (2008) for the curve and its bound; Orhan and Pitkow (2020) for chains.

    Examples
    --------
    >>> Q = mr.Orthogonal().random(6, 6)
    >>> memory = mr.diagnostics.fisher_memory(0.9 * Q)
    >>> assert all(abs(total - 1) < 1e-4 for total in memory.totals)
    """
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise OptionError(
            f"fisher_memory needs steps of at least 1, the length of the curve.\nGot {steps!r}.\nPass steps=100."
        )
    name, W = matrix_of(source, "fisher_memory")
    n, directions = len(W), _directions(source, v, W)
    radius = stationary_radius(W, "fisher_memory")
    eye = torch.eye(n, dtype=W.dtype, device=W.device)
    R = root_of_sum(W.mH, eye, "fisher_memory")
    M = root_of_sum(_whitened(R, W @ R.mH), eye, "fisher_memory")  # sum over the powers of a contraction
    totals = torch.linalg.vector_norm(M @ _whitened(R, directions), dim=0).square()
    F = M @ _whitened(R, eye)
    _, sizes, rows = torch.linalg.svd(F)
    return FisherMemory(
        matrix=name,
        curve=_curve(W, R, directions, float(totals.sum()), steps),
        totals=tuple(totals.tolist()),
        bound=n,
        best_total=float(sizes[0] ** 2),
        best_direction=tuple(rows[0].conj().tolist()),
        noise=float(torch.linalg.matrix_norm(R).square() / n),
        radius=radius,
    )


def _whitened(R: Tensor, x: Tensor) -> Tensor:
    r"""Return :math:`R^{-H} x`. Substitution is accurate for every column, unlike an explicit inverse."""
    return torch.linalg.solve_triangular(R.mH, x, upper=False)


def _curve(W: Tensor, R: Tensor, x: Tensor, whole: float, steps: int | None) -> tuple[float, ...]:
    curve: list[float] = []
    while len(curve) < (steps or _MOST_STEPS):
        curve.append(float(torch.linalg.matrix_norm(_whitened(R, x)).square()) / x.shape[1])
        if steps is None and sum(curve) * x.shape[1] >= whole * (1 - 1e-6):
            break
        x = W @ x
    return tuple(curve)


def _directions(source: Tensor | nn.Module, v: Tensor | None, W: Tensor) -> Tensor:
    """Directions as unit columns, with the dtype of the matrix."""
    if v is None and isinstance(source, nn.Module):
        v = input_matrix(source).to(W.dtype)
        v = v[:, v.abs().amax(0) > 0]
    if v is None:
        return torch.eye(len(W), dtype=W.dtype, device=W.device)
    if not isinstance(v, Tensor):
        raise OptionError(
            f"fisher_memory needs input directions.\nExpected a Tensor; got {type(v).__name__}.\n"
            "Convert them with torch.as_tensor."
        )
    require_dense(v, "fisher_memory")
    if v.dim() not in (1, 2) or v.shape[0] != len(W) or not v.numel():
        raise ShapeError(
            f"fisher_memory needs input directions of {len(W)} entries.\n"
            f"Expected shape ({len(W)},) or ({len(W)}, m); got {tuple(v.shape)}.\nPass one direction in each column."
        )
    if v.is_complex() and not W.is_complex():
        raise DtypeError(
            "fisher_memory needs real directions for a real matrix.\n"
            f"Expected a real dtype; got {v.dtype}.\nConvert the matrix to complex, or pass v.real."
        )
    x = v.detach().to(W).reshape(len(W), -1)
    largest = x.abs().amax(0)
    if not x.isfinite().all() or not bool((largest > 0).all()):
        raise NonFiniteError(
            "fisher_memory needs finite and nonzero directions.\n"
            f"Got {int((~x.isfinite()).sum())} entries that are not finite, {int((largest == 0).sum())} columns of 0.\n"
            "Leave these columns out."
        )
    x = x / largest
    return x / torch.linalg.vector_norm(x, dim=0)
