"""Tasks for recurrent networks: sequences, loss, metric, and the score of a guesser."""

from .base import Score, Splits, Task
from .digits import Digits

__all__ = ["Digits", "Score", "Splits", "Task"]
