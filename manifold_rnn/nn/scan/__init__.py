"""Ways to run a cell over time."""

from ..cells.base import Form
from .associative import associative
from .building import build_native
from .choice import run
from .chunks import compiled
from .fused import fused
from .library import library
from .native import native
from .reference import loop
from .triton import triton

__all__ = ["Form", "associative", "build_native", "compiled", "fused", "library", "loop", "native", "run", "triton"]
