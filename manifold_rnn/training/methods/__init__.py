"""Sections of a run's settings that change how its network learns; each is off by default."""

from .base import Method
from .learning import LearningSettings
from .pruning import PruningSettings

__all__ = ["LearningSettings", "Method", "PruningSettings"]
