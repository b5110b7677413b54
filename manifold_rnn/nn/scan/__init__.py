"""Ways to run a cell over time."""

from .reference import loop

__all__ = ["loop"]
