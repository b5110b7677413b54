"""Polynomials of matrices in few products."""

import math
from collections.abc import Sequence

from torch import Tensor

from .defect import shift_diagonal
from .product import multiply


def matrix_polynomial(Z: Tensor, coefficients: Sequence[float], square: Tensor | None = None) -> Tensor:
    r"""``c_0 I + c_1 Z + ... + c_d Z^d`` for a degree of at least 1, in about :math:`2\sqrt d - 2` products.

    The powers up to ``q`` are computed once; Horner's rule in ``Z^q`` does the rest. Source: Paterson and Stockmeyer
    (1973).
    """
    degree = len(coefficients) - 1
    q = math.ceil(math.sqrt(degree))
    powers = [Z] if square is None or q == 1 else [Z, square]
    while len(powers) < q:
        powers.append(multiply(powers[-1], Z))
    start = q * ((degree - 1) // q)  # the first block holds 1 to q powers
    P = coefficients[degree] * powers[degree - start - 1]
    end = degree
    while True:
        for k in range(start + 1, end):
            P.add_(powers[k - start - 1], alpha=coefficients[k])
        shift_diagonal(P, coefficients[start])
        if not start:
            return P
        P, start, end = multiply(P, powers[-1]), start - q, start


def exponent(x: float) -> int:
    """The least ``k`` for which :math:`2^{k/8}` is at least ``x``, to keep polynomials for so many intervals only."""
    return math.ceil(8 * math.log2(max(x, 1e-9)))
