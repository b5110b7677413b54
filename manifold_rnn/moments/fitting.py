"""The weights of a quadratic recurrent network, from the moments of its inputs and outputs."""

from collections.abc import Iterable
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from .._options import is_integer
from ..errors import OptionError, ShapeError, UnsupportedError
from .batches import Batch, Batches, Estimates
from .conditions import Conditions, require_conditions
from .estimation import Round, estimate, second_moment
from .result import QuadraticFit
from .scores import GaussianScores, GivenScores, ScoreFunction, Scores

_DETERMINED = 2.0  # standard errors by which the directions need to be independent
_EXPLAINED = 3.0  # standard errors of the residual of D; correct fits of heavy-tailed inputs reach 2
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
        Whether to raise if the inputs do not meet the conditions, which are in ``checks`` either way; if rows of ``C``
        differ by less than two standard errors; if the smallest singular value of the directions is below two standard
        errors; or if the residual of D is more than 3 standard errors and no direction was left out; or if
        R2 is not above 0.
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
        If the inputs do not have the moments of the density, or rows of ``C`` are parallel; with ``strict``, if
        the directions are nearly dependent, or the network does not explain D or any variance of y.

    Notes
    -----
    The seven steps: means and covariances; T; its span, by singular values; the directions, by Jennrich's algorithm;
    these and C, by least squares; D within the span; U, by least squares. Then all but the first are repeated on what
    this network leaves of y, and the moments of the network, known in closed form, are added. That keeps the
    expectations, and the errors no longer contain the variance of y: they are two to ten times smaller.

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
        Read seven times, so it must start anew each time, as a list or a ``DataLoader`` does. Each pass must give the
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
    conditions = Conditions()
    T = second_moment(data, scores, known, conditions=conditions)
    checks = conditions.checks()
    if strict:
        require_conditions(checks, inputs)
    once = partial(estimate, data, scores, known, hidden=hidden, draws=draws, seed=seed, strict=strict)
    last = once(T, None)
    if last.r2 > 0:  # else what the model does not explain has no less noise than y
        last = once(second_moment(data, scores, known, last.model), last.model)
    if strict:
        _require_determined(last)
    model = last.model
    dtype = torch.float64 if data.dtype == torch.float64 else torch.float32

    def converted(value: Tensor) -> Tensor:
        return value.to(data.device, dtype)

    return QuadraticFit(
        A=converted(model.A),
        U=converted(model.U),
        C=converted(model.C),
        offset=converted(last.offset),
        U_error_given_AC=converted(last.U_error_given_AC),
        mean=converted(known.x_mean),
        count=known.sequences,
        singular_values=converted(last.span.singular_values),
        noise=last.span.noise,
        residuals=last.residuals,
        checks=checks,
        r2=last.r2,
    )


def _scores(inputs: Inputs, known: Estimates) -> Scores:
    mean, covariance = known.x_mean, known.x_covariance
    if isinstance(inputs, tuple):
        return GivenScores(*inputs, len(mean), mean)
    if inputs == "standard":
        eye = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
        return GaussianScores(torch.zeros_like(mean), eye, estimated=False)
    return GaussianScores(mean, covariance, estimated=True)


def _require_determined(last: Round) -> None:
    """Raise `UnsupportedError` if the model explains no variance or not D, or the directions are dependent."""
    if last.r2 <= 0:
        raise UnsupportedError(
            "The network that the moments give explains none of the variance of y.\n"
            f"Expected an R2 above 0, got {last.r2:.3g}.\nA cause is an offset inside the square, (A x + U h + b)^2, "
            "which the model does not have.\nShift the inputs, such as to mean 0, so that b is 0; pass more sequences, "
            "or use strict=False."
        )
    value, error = last.smallest
    if value <= _DETERMINED * error:
        raise UnsupportedError(
            "The directions are nearly dependent, so too few sequences determine neither them nor U.\n"
            f"Expected a smallest singular value of more than {_DETERMINED:g} standard errors; got {value:.2g} with a "
            f"standard error of {error:.2g}.\nPass more sequences, or a smaller hidden."
        )
    used, values, (size, noise) = len(last.model.C), last.span.singular_values, last.residuals["D"]
    all_used = used == len(values) or float(values[used]) <= last.span.noise
    if all_used and size > _EXPLAINED * noise:
        raise UnsupportedError(
            "The network that the moments give does not explain the cross moments D, so U is wrong.\n"
            f"Expected a residual of at most {_EXPLAINED:g} standard errors of D ({noise:.2g}), got {size:.2g}.\n"
            "Pass more sequences, another hidden, or strict=False if a rough start is enough."
        )


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
