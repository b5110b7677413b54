"""Which repetitions of a law run by default; the others are marked slow."""

import itertools
from collections.abc import Iterable, Sequence

import pytest


def covering(*axes: Sequence) -> list:
    """All combinations of several axes. Those beyond one for each pair of values of any two axes are slow.

    Each axis but the last has to be at least as long as the last, or a value of the last is left out.
    """
    cases = []
    for places in itertools.product(*(range(len(axis)) for axis in axes)):
        kept = sum(places[:-1]) % len(axes[-1]) == places[-1]
        values = [axis[place] for axis, place in zip(axes, places, strict=True)]
        cases.append(pytest.param(*values, marks=[] if kept else [pytest.mark.slow]))
    return cases


def slow_but(kept: Iterable, values: Iterable) -> list:
    """The values as parameters, slow but for those that are kept."""
    kept = list(kept)
    return [pytest.param(value, marks=[] if value in kept else [pytest.mark.slow]) for value in values]
