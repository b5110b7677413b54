"""Sections of a run's settings that change how its network learns; each is off by default."""

from .base import Method
from .learning import LearningSettings
from .pruning import PruningSettings
from .search import SearchSettings

__all__ = ["LearningSettings", "Method", "PruningSettings", "SearchSettings"]
