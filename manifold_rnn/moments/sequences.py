"""Pairs of successive inputs, and the outputs after them, from sequences."""

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import DtypeError, ShapeError

_CLASSES = 2**15


def two_steps(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return the arguments of `fit` for sequences of at least two steps.

    For a target after the last step, these are the last two inputs of each sequence. For targets at each step, they are
    all pairs of successive inputs, with the target of the second input. The moments hold for any state before the pair,
    so earlier inputs act as noise.

    Parameters
    ----------
    inputs : Tensor, shape (N, T, m)
        Real inputs, with T at least 2.
    targets : Tensor, shape (N, k) or (N, T, k); or integers, shape (N,) or (N, T)
        Integers are classes, which become one-hot vectors. A real (N,) is one output.

    Returns
    -------
    x0, x1 : Tensor, shape (P, m)
        Two successive inputs of P pairs.
    y : Tensor, shape (P, k)
        The targets after ``x1``.

    Raises
    ------
    ShapeError
        If the shapes do not match, or a sequence has fewer than two steps.
    DtypeError
        If the inputs are not real floating-point numbers, for example integer symbols.

    Examples
    --------
    >>> x = torch.randn(10, 5, 3)
    >>> x0, x1, y = mr.moments.two_steps(x, x.sum(1))
    >>> assert torch.equal(x1, x[:, -1]) and y.shape == (10, 3)
    >>> assert mr.moments.two_steps(x, x)[0].shape == (40, 3)
    """
    if not inputs.is_floating_point():
        raise DtypeError(
            "The inputs of moments must be real vectors.\n"
            f"Expected a floating-point dtype, got {inputs.dtype}.\n"
            "Symbols have no density: embed them first, or use another initialization."
        )
    if inputs.ndim != 3 or inputs.shape[1] < 2:
        raise ShapeError(
            "Moments need sequences of at least two steps.\n"
            f"Expected inputs of shape (N, T, m) with T at least 2, got {tuple(inputs.shape)}.\n"
            "Put the batch first, as with batch_first=True."
        )
    y = targets if targets.is_floating_point() else _one_hot(targets, inputs)
    y = y[:, None] if y.ndim == 1 else y
    every_step = y.ndim == 3 and y.shape[:2] == inputs.shape[:2]
    if not every_step and (y.ndim != 2 or len(y) != len(inputs)):
        raise ShapeError(
            "The shapes of targets and inputs do not match.\n"
            f"Expected (N, k) or (N, T, k), or classes (N,) or (N, T), for inputs {tuple(inputs.shape)}; got "
            f"{tuple(targets.shape)}.\nPass one target for each sequence or for each step."
        )
    if not every_step:
        return inputs[:, -2], inputs[:, -1], y.to(inputs.dtype)
    pairs = (inputs[:, :-1], inputs[:, 1:], y[:, 1:].to(inputs.dtype))
    return pairs[0].flatten(0, 1), pairs[1].flatten(0, 1), pairs[2].flatten(0, 1)


def _one_hot(targets: Tensor, inputs: Tensor) -> Tensor:
    """Return classes as one-hot vectors; raise for complex targets and for negative or too many classes."""
    if targets.is_complex() or targets.dtype == torch.bool:
        raise DtypeError(
            "The targets of moments must be real numbers or classes.\n"
            f"Expected a floating-point or an integer dtype, got {targets.dtype}.\n"
            "Pass real and imaginary parts as separate columns, or 0 and 1 as integers."
        )
    least, most = (int(targets.min()), int(targets.max())) if targets.numel() else (0, 0)
    if least < 0 or most >= _CLASSES:
        raise ShapeError(
            f"Classes must be numbered from 0 to at most {_CLASSES - 1}.\n"
            f"Expected such integers, got some from {least} to {most}.\nPass real targets in a floating-point dtype."
        )
    return functional.one_hot(targets.long(), most + 1).to(inputs.dtype)
