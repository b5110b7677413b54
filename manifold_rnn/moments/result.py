"""The result of a fit: the weights of a quadratic network, and how well they explain the data."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from .conditions import Check


class Residual(NamedTuple):
    """The part of a moment that a fit does not explain.

    Parameters
    ----------
    size : float
        Norm of the residual, relative to that of the moment.
    noise : float
        Standard error of the moment, relative to the same norm. A residual of this size may be due to chance.

    Examples
    --------
    >>> assert mr.moments.Residual(size=0.01, noise=0.02).size < 0.02
    """

    size: float
    noise: float


@dataclass(frozen=True, eq=False)
class QuadraticFit:
    r"""The network :math:`h_t = (A x_t + U h_{t-1})^2`, :math:`y_t \approx C^\top h_t + c`, fitted to moments.

    Parameters
    ----------
    A : Tensor, shape (n, m)
        Directions of the inputs, sorted by decreasing norms of the rows of ``C``. The largest entry of each is
        positive. :math:`a_r \cdot x` has variance 1 for Gaussian inputs; with given scores :math:`a_r` has norm 1.
    U : Tensor, shape (n, n)
        Recurrent weights.
    C : Tensor, shape (n, k)
        Output weights, with one row for each unit.
    offset : Tensor, shape (k,)
        The offset ``c``.
    U_error_given_AC : Tensor, shape (n, n)
        Standard errors of the entries of ``U`` given A and C. They include the noise of D, but not the errors of A and
        C, which grow if directions are nearly dependent.
    mean : Tensor, shape (m,)
        Mean of the inputs.
    count : int
        Number of sequences.
    singular_values : Tensor, shape (p,)
        Singular values of the unfolded second moment; the fit uses ``n`` of them.
    noise : float
        Size of a singular value due to sampling noise alone.
    residuals : mapping from str to Residual
        Residuals of the moment "T", of second order in ``x1``, and of "D", of first order in ``x1`` and second in
        ``x0``.
    checks : mapping from str to Check
        The conditions on the inputs.
    r2 : float
        Fraction of the variance of ``y`` that the network explains on these data, with ``h = 0`` before ``x0``.

    Notes
    -----
    Permuting the units gives the same network. So does changing the sign of :math:`a_r` together with that of row r of
    ``U``.

    Examples
    --------
    >>> x0, x1 = torch.randn(2, 5_000, 3)
    >>> fit = mr.moments.fit(x0, x1, x1.square()[:, :2], hidden=2)
    >>> assert fit.A.shape == (2, 3) and fit.predict(x0, x1).shape == (5_000, 2)
    """

    A: Tensor
    U: Tensor
    C: Tensor
    offset: Tensor
    U_error_given_AC: Tensor
    mean: Tensor
    count: int
    singular_values: Tensor
    noise: float
    residuals: dict[str, Residual]
    checks: dict[str, Check]
    r2: float

    def predict(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Return the outputs after two steps from ``h = 0``, of shape (N, k).

        Parameters
        ----------
        x0, x1 : Tensor, shape (N, m)
            Two successive inputs.
        """
        return outputs(x0, x1, self.A, self.U, self.C) + self.offset

    def table(self) -> str:
        """Return a table of the numbers that show how accurate the fit is."""
        units, used = len(self.A), self.singular_values[: len(self.A)]
        rows = [
            ("sequences", f"{self.count:,}", ""),
            ("units", str(units), f"of {self.A.shape[1]} inputs, {self.C.shape[1]} outputs"),
            ("smallest singular value used", f"{float(used[-1]):.3g}", f"noise alone gives {self.noise:.3g}"),
        ]
        if units < len(self.singular_values):
            rows.append(("largest one left out", f"{float(self.singular_values[units]):.3g}", ""))
        for name, (size, noise) in self.residuals.items():
            rows.append((f"residual of {name}", f"{size:.3g}", f"standard error {noise:.3g}"))
        rows.append(
            (
                "standard error of U given A and C",
                f"{float(self.U_error_given_AC.square().mean().sqrt()):.3g}",
                "root mean square",
            )
        )
        rows.append(("R2", f"{self.r2:.4f}", "on these data"))
        for name, check in self.checks.items():
            meaning = "standard errors" if check.holds else f"standard errors: fails, the limit is {check.limit:.1f}"
            rows.append((name, f"{check.deviation:.1f}", meaning))
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = [f"  {name:<{widths[0]}}  {value:>{widths[1]}}  {meaning}".rstrip() for name, value, meaning in rows]
        return "\n".join(["Quadratic network from moments", *lines])


def outputs(x0: Tensor, x1: Tensor, A: Tensor, U: Tensor, C: Tensor) -> Tensor:
    """Return ``C^T h_1`` for ``h_0 = (A x0)^2``, (N, k)."""
    return (x1 @ A.mT + (x0 @ A.mT).square() @ U.mT).square() @ C
