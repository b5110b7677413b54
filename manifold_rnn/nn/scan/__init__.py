"""Ways to run a cell over time."""

from ..cells.base import Form
from .associative import associative
from .compiled import compiled
from .elman.fused import fused
from .elman.native import native
from .elman.native.building import build_native
from .elman.triton import triton
from .reference import loop
from .run import run
from .torch_kernel import library

__all__ = ["Form", "associative", "build_native", "compiled", "fused", "library", "loop", "native", "run", "triton"]
