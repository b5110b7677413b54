"""Checks of any manifold, retraction, gradient, optimizer, constraint, cell or task.

Each check returns a report of measured numbers. It has one number for each law, and prints as a table:

>>> report = mr.testing.check_manifold(mr.Orthogonal())
>>> assert report.defect < 1e-12 and report.self_adjoint < 1e-12

``strict=True`` raises an error if a number exceeds its bound, so one line is a complete test:

>>> _ = mr.testing.check_retraction(mr.Orthogonal("cayley"), order=2, strict=True)

Your own cell, constraint or task is checked in the same way:

>>> _ = mr.testing.check_cell(mr.nn.cells.GRU(), strict=True)
>>> _ = mr.testing.check_constraint(mr.FixedBase(mr.Orthogonal()), strict=True)
>>> _ = mr.testing.check_task(mr.tasks.Copying(5, sizes=(200, 50, 200)), strict=True)

Manifolds of other libraries are checked in the same way:

>>> import geoopt
>>> _ = mr.testing.check_manifold(geoopt.Sphere(), torch.randn(3), strict=True)
"""

from .cell import CellReport, check_cell
from .constraint import ConstraintReport, check_constraint
from .gradient import GradientReport, check_gradient
from .manifold import ManifoldReport, check_manifold
from .optimizer import OptimizerReport, check_optimizer
from .report import Report, Row
from .retraction import RetractionReport, check_retraction
from .task import TaskReport, check_task

__all__ = [
    "CellReport",
    "ConstraintReport",
    "GradientReport",
    "ManifoldReport",
    "OptimizerReport",
    "Report",
    "RetractionReport",
    "Row",
    "TaskReport",
    "check_cell",
    "check_constraint",
    "check_gradient",
    "check_manifold",
    "check_optimizer",
    "check_retraction",
    "check_task",
]
