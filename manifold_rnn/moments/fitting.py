"""The weights of a quadratic recurrent network, from the moments of its inputs and outputs."""

from collections.abc import Iterable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from .._options import is_integer
from ..errors import OptionError, ShapeError
from .batches import Batch, Batches, Estimates
from .conditions import Check, Conditions, require_conditions
from .decomposition import Moment, Parts, decompose, rebuilt, recurrent_weights, subspace
from .result import QuadraticFit, Residual, outputs
from .scores import GaussianScores, GivenScores, ScoreFunction, Scores

Inputs: TypeAlias = Literal["gaussian", "standard"] | tuple[ScoreFunction, ScoreFunction]


def fit(
    x0: Tensor,
    x1: Tensor,
    y: Tensor,
    hidden: int | None = None,
    *,
    inputs: Inputs = "gaussian",
    strict: bool = True,
    draws: int = 20,
    seed: int = 0,
) -> QuadraticFit:
    r"""Find a quadratic recurrent network from cross moments, after Sedghi and Anandkumar.

    The model is :math:`h_t = (A x_t + U h_{t-1})^2`, entry by entry, and :math:`\mathbb E[y_1 | h_1] = C^\top h_1 + c`.
    With the scores :math:`S_1, S_2` of the inputs, for Gaussian inputs :math:`z` and :math:`z z^\top - I`,

    .. math::
        T &= \mathbb E[y_1 \otimes S_2(x_1)] = 2 \sum_r c_r \otimes a_r \otimes a_r, \\
        D &= \mathbb E[y_1 \otimes S_1(x_1) \otimes S_2(x_0)] = 4 \sum_{rs} U_{rs}\, c_r \otimes a_r \otimes a_s
        \otimes a_s.

    Parameters
    ----------
    x0, x1 : Tensor, shape (N, m)
        Two successive inputs of N sequences, independent and with the same density; float32 or float64.
    y : Tensor, shape (N, k)
        Outputs after ``x1``.
    hidden : int, optional
        Number n of units, at most m. Default: the number of directions that are above the noise.
    inputs : "gaussian", "standard" or pair of callables
        Gaussian inputs, whose mean and covariance are estimated; Gaussian inputs with mean 0 and covariance I; or the
        first and the second score of the inputs' density :math:`p`, :math:`-\nabla p/p` and :math:`\nabla^2 p/p`, which
        map (N, m) in float64 to (N, m) and (N, m, m).
    strict : bool
        Whether to raise if the inputs do not meet the conditions. They are in ``checks`` either way.
    draws : int
        Random combinations of outputs that are tried.
    seed : int
        Of these draws. No other random number is used.

    Returns
    -------
    QuadraticFit
        In the dtype and on the device of ``x0``.

    Raises
    ------
    ShapeError, DtypeError, DeviceError, NonFiniteError
        If the data are not three matrices of finite real numbers that fit; if there are too few sequences, or
        fewer than 2 outputs for more than one unit.
    OptionError
        If an option is out of range, or ``hidden`` is more than m or the number of directions above the noise.
    UnsupportedError
        If the inputs do not have the moments of the density, or rows of ``C`` are parallel.

    Notes
    -----
    The seven steps: means and covariances; T; its span, by singular values; the directions, by Jennrich's algorithm;
    C, by least squares; D within the span; U, by least squares. Before D, the part of y that T explains is subtracted,
    which leaves the expectation as it is and reduces the noise. The mean of y is subtracted for the same reason.

    The identities hold for inputs of any mean, and for any state before ``x0``. All sums are in float64. Memory beside
    the data is independent of N: :math:`k m^2` numbers for T, :math:`k n^3` for D. Errors of the weights decrease as
    :math:`N^{-1/2}`. A few percent in U need :math:`N \ge 10^5`, since the moments are of high order.

    A unit that never responds to the square of its input, such as one of a linear network, is not found. The paper
    takes moments of higher order of ``x0``, which lose the signs of U. Source: Sedghi and Anandkumar (2016).

    Examples
    --------
    >>> x0, x1 = torch.randn(2, 20_000, 2)
    >>> y = (x1 + 0.1 * x0.square().flip(1)).square()  # U = [[0, 0.1], [0.1, 0]]
    >>> fit = mr.moments.fit(x0, x1, y, hidden=2, inputs="standard")
    >>> assert (fit.U.abs().sort().values - torch.tensor([0.0, 0.1])).abs().max() < 0.05
    """
    for name, value in {"x0": x0, "x1": x1, "y": y}.items():
        if not isinstance(value, Tensor):
            raise OptionError(
                f"{name} is a tensor.\nExpected shape (N, m) or (N, k), got {type(value).__name__}.\n"
                "Convert it with torch.as_tensor, or use `fit_batches` for batches."
            )
    return fit_batches([(x0, x1, y)], hidden, inputs=inputs, strict=strict, draws=draws, seed=seed)


def fit_batches(
    batches: Iterable[Batch],
    hidden: int | None = None,
    *,
    inputs: Inputs = "gaussian",
    strict: bool = True,
    draws: int = 20,
    seed: int = 0,
) -> QuadraticFit:
    """As `fit`, from batches that need not fit into memory together.

    Parameters
    ----------
    batches : iterable of (x0, x1, y)
        Read four times, so it must start anew each time, as a list or a ``DataLoader`` does. Each pass must give the
        same data, in any order.
    hidden, inputs, strict, draws, seed
        As for `fit`.

    Returns
    -------
    QuadraticFit

    Raises
    ------
    ManifoldError
        As `fit`; also if the batches can be read once only, or a pass gives another number of sequences.

    Examples
    --------
    >>> x0, x1 = torch.randn(2, 4_000, 3)
    >>> y = x1.square()[:, :2]
    >>> loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x0, x1, y), batch_size=1_000)
    >>> whole, streamed = mr.moments.fit(x0, x1, y, 2), mr.moments.fit_batches(loader, 2)
    >>> assert torch.allclose(whole.A, streamed.A, atol=1e-5)
    """
    _require_options(hidden, inputs, draws, seed)
    data = Batches(batches)
    _require_outputs(data.outputs, hidden)
    known = data.estimates()
    _require_count(known.sequences, data.inputs)
    scores = _scores(inputs, known)
    _require_inputs(scores.to_inputs.shape[1], hidden)
    T, checks = _second_moment(data, scores, known)
    if strict:
        require_conditions(checks, inputs)
    span = subspace(T, hidden)
    parts = decompose(_within(T, span.basis), draws, torch.Generator().manual_seed(seed))
    parts, A = _in_order(parts, scores.to_inputs @ span.basis)
    C = parts.C.to(data.device)
    D = _cross_moment(data, scores, known, span.basis, A, C)
    U, U_error, D_rebuilt = recurrent_weights(D, parts)
    offset, r2 = _explained(data, known, A, U.to(data.device), C)
    T_rebuilt = rebuilt(parts.directions.to(data.device) @ span.basis.mT, C)
    residuals = {
        "T": Residual(_relative(T.value, T_rebuilt), T.noise()),
        "D": Residual(_relative(D.value, D_rebuilt), D.noise()),
    }
    dtype = torch.float64 if data.dtype == torch.float64 else torch.float32

    def converted(value: Tensor) -> Tensor:
        return value.to(data.device, dtype)

    return QuadraticFit(
        A=converted(A),
        U=converted(U),
        C=converted(C),
        offset=converted(offset),
        U_error=converted(U_error),
        mean=converted(known.x_mean),
        count=known.sequences,
        singular_values=converted(span.singular_values),
        noise=span.noise,
        residuals=residuals,
        checks=checks,
        r2=r2,
    )


def _scores(inputs: Inputs, known: Estimates) -> Scores:
    mean, covariance = known.x_mean, known.x_covariance
    if isinstance(inputs, tuple):
        return GivenScores(*inputs, len(mean), mean)
    if inputs == "standard":
        eye = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
        return GaussianScores(torch.zeros_like(mean), eye, estimated=False)
    return GaussianScores(mean, covariance, estimated=True)


def _second_moment(data: Batches, scores: Scores, known: Estimates) -> tuple[Moment, dict[str, Check]]:
    """T (k, p, p), and the checks of the inputs."""
    conditions, sums, p = Conditions(), _Sums(), scores.to_inputs.shape[1]
    for x0, x1, y in data:
        sums.add(y - known.y_mean, scores.second(x1).flatten(1))
        conditions.add(scores.conditions(x0, x1))
    return sums.moment(known.sequences, (len(known.y_mean), p, p)), conditions.checks()


def _within(T: Moment, basis: Tensor) -> Moment:
    """T within a subspace, on the CPU, where small matrices are fastest; its errors are averages for each output."""
    value = basis.mT @ T.value @ basis
    error = T.error.square().mean((1, 2), keepdim=True).sqrt().expand_as(value)
    return Moment(value.cpu(), error.cpu())


def _in_order(parts: Parts, to_inputs: Tensor) -> tuple[Parts, Tensor]:
    """The parts with the largest rows of C first and the largest entry of each direction positive, and A."""
    order = parts.C.norm(dim=1).argsort(descending=True, stable=True)
    a, C = parts.directions[order], parts.C[order]
    A = a.to(to_inputs.device) @ to_inputs.mT
    largest = A.gather(1, A.abs().argmax(1, keepdim=True))
    return Parts(a * largest.sign().to(a.device), C), A * largest.sign()


def _cross_moment(data: Batches, scores: Scores, known: Estimates, basis: Tensor, A: Tensor, C: Tensor) -> Moment:
    """D (k, n, n, n) within the subspace, on the CPU; what T explains of y is subtracted first."""
    sums, n = _Sums(), basis.shape[1]
    for x0, x1, y in data:
        rest = y - known.y_mean - (x1 @ A.mT).square() @ C
        left = rest[:, :, None] * (scores.first(x1) @ basis)[:, None]
        sums.add(left.flatten(1), scores.second(x0, basis).flatten(1))
    value, error = sums.moment(known.sequences, (len(known.y_mean), n, n, n))
    return Moment(value.cpu(), error.cpu())


def _explained(data: Batches, known: Estimates, A: Tensor, U: Tensor, C: Tensor) -> tuple[Tensor, float]:
    """The offset of the outputs, and R2."""
    total, squares = torch.zeros_like(known.y_mean), torch.zeros_like(known.y_mean)
    for x0, x1, y in data:
        rest = y - known.y_mean - outputs(x0, x1, A, U, C)
        total, squares = total + rest.sum(0), squares + rest.square().sum(0)
    mean = total / known.sequences
    variance = (squares / known.sequences - mean.square()).clamp(min=0)
    return known.y_mean + mean, float(1 - variance.sum() / known.y_variance.sum().clamp(min=1e-300))


class _Sums:
    """Sums of products and of their squares, over the pieces of the data."""

    def __init__(self) -> None:
        self._count = 0
        self._total = self._squares = torch.zeros(())

    def add(self, left: Tensor, right: Tensor) -> None:
        self._count += len(left)
        self._total = left.mT @ right + self._total.to(left)
        self._squares = left.square().mT @ right.square() + self._squares.to(left)

    def moment(self, expected: int, shape: tuple[int, ...]) -> Moment:
        if self._count != expected:
            raise OptionError(
                "Each pass over the batches must give the same sequences.\n"
                f"Expected {expected:,}, got {self._count:,} in a later pass.\n"
                "Pass a list, or a DataLoader of a fixed set."
            )
        value = self._total / self._count
        error = (self._squares / self._count - value.square()).clamp(min=0).div(self._count).sqrt()
        return Moment(value.reshape(shape), error.reshape(shape))


def _relative(value: Tensor, rebuilt: Tensor) -> float:
    return float((value - rebuilt).norm() / value.norm().clamp(min=1e-300))


def _require_options(hidden: object, inputs: object, draws: object, seed: object) -> None:
    for name, count, least in (("hidden", hidden, 1), ("draws", draws, 1), ("seed", seed, 0)):
        if not (is_integer(count, least) and int(count) < 2**63) and not (name == "hidden" and count is None):  # type: ignore[call-overload]
            raise OptionError(
                f"`{name}` of a fit is out of range.\nExpected an integer of at least {least}, got {count!r:.40}.\n"
                f"Change `{name}`."
            )
    functions = isinstance(inputs, tuple) and len(inputs) == 2 and all(callable(score) for score in inputs)
    if not functions and inputs not in ("gaussian", "standard"):
        raise OptionError(
            "`inputs` of a fit is unknown.\nExpected 'gaussian', 'standard', or a pair of score functions; got "
            f"{inputs!r:.60}.\nCheck the spelling, or pass (first, second)."
        )


def _require_outputs(outputs: int, hidden: int | None) -> None:
    if outputs < 2 and hidden != 1:
        raise ShapeError(
            "One output does not tell several units apart.\n"
            f"Expected y of shape (N, k) with k at least 2, got k={outputs} for hidden={hidden}.\n"
            "Pass more outputs, or hidden=1."
        )


def _require_count(count: int, inputs: int) -> None:
    least = inputs * (inputs + 3) // 2
    if count < least:
        raise ShapeError(
            f"The moments of {inputs} inputs have {least} unknown numbers.\n"
            f"Expected at least as many sequences, got {count}.\nPass many more: errors decrease as N^-1/2."
        )


def _require_inputs(varying: int, hidden: int | None) -> None:
    if hidden is not None and hidden > varying:
        raise OptionError(
            f"The inputs vary in {varying} directions, which do not determine {hidden} units.\n"
            f"Expected hidden of at most {varying}, got {hidden}.\n"
            "Use fewer units; moments of higher order, which this package does not have, could find more."
        )
