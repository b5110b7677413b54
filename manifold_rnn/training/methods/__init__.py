"""Sections of a run's settings that change how its network learns; each is off by default."""

from .base import Method
from .start import StartSettings

__all__ = ["Method", "StartSettings"]
