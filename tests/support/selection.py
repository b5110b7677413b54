"""Choosing which cases of many run by default; the others are marked slow."""

import itertools

import pytest


def sample(cases, every):
    """Return the cases, each a tuple of parameters, of which only each ``every``-th runs by default."""
    return [pytest.param(*case, marks=() if k % every == 0 else pytest.mark.slow) for k, case in enumerate(cases)]


def spread(*axes, every):
    """Return a `sample` of the product of some axes.

    If ``every`` has no divisor in common with the lengths of two axes, each pair of their values meets by default where
    the product is long enough.
    """
    return sample(itertools.product(*axes), every)


def slow_but(kept, values):
    """Return the values as cases of one parameter, slow but for those that are kept."""
    return [pytest.param(value, marks=() if value in kept else pytest.mark.slow) for value in values]
