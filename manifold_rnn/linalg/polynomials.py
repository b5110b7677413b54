"""Matrix polynomials by few products, and their coefficients accurate to the last digit."""

import functools
import math
from collections.abc import Callable, Sequence

from torch import Tensor

from .defect import shift_diagonal
from .product import multiply

_TAIL = 24  # number of further Chebyshev terms after which the rest of a series is negligible


def matrix_polynomial(Z: Tensor, coefficients: Sequence[float], square: Tensor | None = None) -> Tensor:
    r"""Return ``c_0 I + c_1 Z + ... + c_d Z^d`` for a degree of at least 1, by about :math:`2\sqrt d - 2` products.

    The powers up to ``q`` are computed once, and then combined by Horner's rule in ``Z^q``. Source: Paterson and
    Stockmeyer (1973).
    """
    degree = len(coefficients) - 1
    q = math.ceil(math.sqrt(degree))
    powers = [Z] if square is None or q == 1 else [Z, square]
    while len(powers) < q:
        powers.append(multiply(powers[-1], Z))
    start = q * ((degree - 1) // q)  # the first block has 1 to q powers
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
    r"""Return the least ``k`` with :math:`2^{k/8} \ge x`, so that polynomials are cached for few intervals only."""
    return math.ceil(8 * math.log2(max(x, 1e-9)))


def on_imaginary_axis(taylor: Callable[[int], float], radius: float, degree: int) -> tuple[float, ...]:
    r"""Return the truncated Chebyshev series of an entire function of :math:`z = iy`, for ``|y|`` up to ``radius``.

    Coefficient ``n`` of the function's power series is ``taylor(n)``, at most about ``1 / n!``. The result contains
    coefficients of powers of ``z``: those of the power series minus the contributions of the omitted Chebyshev terms.
    These are small, so no digit is lost; summing the retained terms would cancel.
    """

    def real(n: int) -> float:  # y = -iz
        return taylor(n) * (1, 1, -1, -1)[n % 4]

    last = degree + _TAIL
    rest = {
        k: 2 * math.fsum(real(n) * (radius / 2) ** n * math.comb(n, (n - k) // 2) for n in range(k, last + 1, 2))
        for k in range(degree + 1, last + 1)
    }
    left_out = (math.fsum(c * chebyshev(k)[j] for k, c in rest.items()) / radius**j for j in range(degree + 1))
    return tuple((real(j) - c) * (1, 1, -1, -1)[j % 4] for j, c in enumerate(left_out))


@functools.cache
def chebyshev(k: int) -> tuple[int, ...]:
    """Return the coefficients of the Chebyshev polynomial of degree ``k``."""
    if k < 2:
        return (1,) if k == 0 else (0, 1)
    twice, before = (0, *(2 * c for c in chebyshev(k - 1))), (*chebyshev(k - 2), 0, 0)
    return tuple(a - b for a, b in zip(twice, before, strict=True))


@functools.cache
def chebyshev_at_one(k: int) -> tuple[int, ...]:
    """Return the nonnegative coefficients of the Chebyshev polynomial of degree ``k`` in powers of ``u = t - 1``."""
    if k < 2:
        return (1,) if k == 0 else (1, 1)
    last, before = chebyshev_at_one(k - 1), (*chebyshev_at_one(k - 2), 0, 0)
    return tuple(2 * (a + b) - c for a, b, c in zip((*last, 0), (0, *last), before, strict=True))
