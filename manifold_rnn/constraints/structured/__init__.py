"""Structured constraints: weights built from factors, in the trivialized view only."""

from .base import Constraint
from .fixed_base import FixedBase

__all__ = ["Constraint", "FixedBase"]
