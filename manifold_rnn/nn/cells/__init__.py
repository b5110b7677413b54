"""Cells: recurrences that know nothing of layers, directions or constraints; one family a file."""

from .base import Cell
from .elman import Elman

__all__ = ["Cell", "Elman"]
