"""Fits the weights of a quadratic recurrent network to the moments of its inputs and outputs."""

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

_DETERMINED = 2.0  # required smallest singular value of the directions, in standard errors
_EXPLAINED = 3.0  # largest residual of D in standard errors; correct fits of heavy-tailed inputs reach 2
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
    r"""Fit a quadratic recurrent network to cross moments of its data.

    The model is :math:`h_t = (A x_t + U h_{t-1})^2`, elementwise, and :math:`\mathbb E[y_1 | h_1] = C^\top h_1 + c`.
    It uses the scores :math:`S_1, S_2` of the inputs, which for Gaussian inputs are :math:`z` and :math:`z z^\top - I`:

    .. math::
        T &= \mathbb E[y_1 \otimes S_2(x_1)] = 2 \sum_r c_r \otimes a_r \otimes a_r, \\
        D &= \mathbb E[y_1 \otimes S_1(x_1) \otimes S_2(x_0)] = 4 \sum_{rs} U_{rs}\, c_r \otimes a_r \otimes a_s
        \otimes a_s.

    Parameters
    ----------
    x0, x1 : Tensor, shape (N, m)
        Two successive inputs of N sequences. They are independent and have the same density; float32 or float64.
    y : Tensor, shape (N, k)
        The outputs after ``x1``.
    hidden : int, optional
        Number n of units, at most m. Default: the number of directions above the noise.
    inputs : "gaussian", "standard" or pair of callables
        Gaussian inputs with estimated mean and covariance, or Gaussian inputs with mean 0 and covariance I. For other
        inputs with density :math:`p`, pass the first score :math:`-\nabla p/p` and the second score
        :math:`\nabla^2 p/p`. They map (N, m) in float64 to (N, m) and (N, m, m).
    strict : bool
        Whether to raise `UnsupportedError` if the fit is not reliable, see below. ``checks`` contains the conditions on
        the inputs in both cases.
    draws : int
        Number of random combinations of outputs to try.
    seed : int
        Seed of these combinations. No other random numbers are used.

    Returns
    -------
    QuadraticFit
        The fit, in the dtype and on the device of ``x0``.

    Raises
    ------
    ShapeError, DtypeError, DeviceError, NonFiniteError
        If the data are not three matrices of finite real numbers with matching shapes. Also if there are too few
        sequences, or fewer than 2 outputs for more than one unit.
    OptionError
        If an option is out of range, or ``hidden`` exceeds m or the number of directions above the noise.
    UnsupportedError
        If the directions cannot be computed. With ``strict``, also in these cases:

        - The inputs do not have the moments of the density.
        - Rows of ``C`` differ by less than two standard errors.
        - The smallest singular value of the directions is below two standard errors.
        - The residual of D exceeds three standard errors, and no direction was left out.
        - R2 is not above 0.

    Notes
    -----
    The fit has seven steps:

    1. the means and covariances;
    2. T;
    3. the span of T, by singular values;
    4. the directions, by Jennrich's algorithm;
    5. the directions and C, by least squares;
    6. D in the span;
    7. U, by least squares.

    Then all steps except the first are repeated with the part of y that this network does not explain. The moments of
    the network, known in closed form, are added. This keeps the expectations, and the errors no longer contain the
    variance of y. They become two to ten times smaller.

    The identities hold for inputs of any mean, and for any state before ``x0``. All sums are in float64. The memory, in
    addition to the data, does not depend on N: :math:`k m^2` numbers for T, :math:`k n^3` for D. Errors of the weights
    decrease like :math:`N^{-1/2}`. An error of a few percent in U needs :math:`N \ge 10^5`, since the moments have a
    high order.

    The fit cannot find a unit that never responds to the square of its input, as in a linear network. The paper uses
    higher moments of ``x0``, which lose the signs of U. Source: Sedghi and Anandkumar (2016).

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
                f"{name} must be a tensor.\nExpected shape (N, m) or (N, k), got {type(value).__name__}.\n"
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
    """Fit like `fit`, from batches that together need not fit into memory.

    Parameters
    ----------
    batches : iterable of (x0, x1, y)
        The data. They are read seven times, so each iteration must restart, as for a list or a ``DataLoader``. Each
        pass must give the same data, in any order.
    hidden, inputs, strict, draws, seed
        As in `fit`.

    Returns
    -------
    QuadraticFit

    Raises
    ------
    ManifoldError
        As in `fit`. Also if the batches can be read only once, or a pass has another number of sequences.

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
    if last.r2 > 0:  # otherwise subtracting the model does not reduce the noise
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
    """Raise `UnsupportedError` if the model does not explain the data, or its directions are nearly dependent."""
    if last.r2 <= 0:
        raise UnsupportedError(
            "The fitted network explains none of the variance of y.\n"
            f"Expected an R2 above 0, got {last.r2:.3g}.\nOne cause is an offset inside the square, (A x + U h + b)^2, "
            "which the model does not have.\nShift the inputs, for example to mean 0, so that b is 0; pass more "
            "sequences, or use strict=False."
        )
    value, error = last.smallest
    if value <= _DETERMINED * error:
        raise UnsupportedError(
            "The directions are nearly dependent: too few sequences determine them and U.\n"
            f"Expected a smallest singular value of more than {_DETERMINED:g} standard errors; got {value:.2g} with a "
            f"standard error of {error:.2g}.\nPass more sequences, or a smaller hidden."
        )
    used, values, (size, noise) = len(last.model.C), last.span.singular_values, last.residuals["D"]
    all_used = used == len(values) or float(values[used]) <= last.span.noise
    if all_used and size > _EXPLAINED * noise:
        raise UnsupportedError(
            "The fitted network does not explain the cross moments D, so U is wrong.\n"
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
            "One output cannot distinguish several units.\n"
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
            "Pass fewer hidden units."
        )
