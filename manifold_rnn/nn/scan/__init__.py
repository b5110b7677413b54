"""Ways to run a cell over time."""

from ..cells.base import Form
from .associative import associative
from .choice import run
from .chunks import compiled
from .fused import fused
from .library import library
from .reference import loop

__all__ = ["Form", "associative", "compiled", "fused", "library", "loop", "run"]
