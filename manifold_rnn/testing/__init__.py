"""Checks of anybody's manifold, retraction, gradient or optimizer: each returns a report of numbers."""

from .gradient import GradientReport, check_gradient
from .manifold import ManifoldReport, check_manifold
from .optimizer import OptimizerReport, check_optimizer
from .report import Report, Row
from .retraction import RetractionReport, check_retraction

__all__ = [
    "GradientReport",
    "ManifoldReport",
    "OptimizerReport",
    "Report",
    "RetractionReport",
    "Row",
    "check_gradient",
    "check_manifold",
    "check_optimizer",
    "check_retraction",
]
