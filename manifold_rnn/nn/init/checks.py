"""Checks before an initialization writes its first number."""

import math
from numbers import Real

import torch
from torch import Tensor

from ...errors import DtypeError, OptionError, ShapeError
from ...linalg.checks import require_matrix


def require_fill(A: Tensor, name: str, *, square: bool = True, **numbers: float) -> None:
    """Raise unless a tensor can hold matrices, and each number of the options is finite in its dtype."""
    if not (A.is_floating_point() or A.is_complex()):
        raise DtypeError(
            f"{name} fills real or complex matrices.\nGot {A.dtype}.\nAllocate the matrix in a floating-point dtype."
        )
    if square:
        require_matrix(A, name)
    elif A.ndim < 2:
        raise ShapeError(f"{name} fills matrices in the last two axes.\nGot shape {tuple(A.shape)}.\nAdd an axis.")
    largest = torch.finfo(A.dtype).max
    for option, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not abs(value) <= largest:
            raise OptionError(
                f"{option} of {name} needs to be a finite number in {A.dtype}.\nGot {value!r:.80}.\n"
                f"Pass a number of modulus at most {largest:.3g}."
            )


def require_angle(value: float, option: str, name: str, *, below: float = math.inf) -> None:
    """Raise unless an angle is above 0 and below a limit."""
    if not 0 < value < below:
        limit = f" and below {below:.5g}" if below < math.inf else ""
        raise OptionError(
            f"{option} of {name} needs to be above 0{limit}.\nGot {value!r:.80}.\nPass an angle in radians."
        )


def at_least_single(A: Tensor) -> Tensor:
    """Return a tensor like ``A``, without its numbers, in a precision that factorizations support."""
    return A.new_empty(A.shape, dtype=torch.promote_types(A.dtype, torch.float32))
