"""Tasks for recurrent networks: sequences, loss, metric, and the score of a guesser."""

from .adding import Adding
from .base import Score, Splits, Task
from .characters import Characters
from .copying import Copying
from .digits import Digits
from .one_hot import OneHot
from .pixels import PixelMNIST
from .published import Published
from .speech import Speech
from .synthetic_speech import SyntheticSpeech

__all__ = [
    "Adding",
    "Characters",
    "Copying",
    "Digits",
    "OneHot",
    "PixelMNIST",
    "Published",
    "Score",
    "Speech",
    "Splits",
    "SyntheticSpeech",
    "Task",
    "available",
]


def available() -> list[str]:
    """Return the names of the tasks, in alphabetical order.

    Returns
    -------
    list of str

    Examples
    --------
    >>> assert all(issubclass(getattr(mr.tasks, name), mr.tasks.Task) for name in mr.tasks.available())
    """
    found = {name: globals()[name] for name in __all__}
    return [
        name
        for name, value in found.items()
        if isinstance(value, type) and issubclass(value, Task) and value is not Task
    ]
