"""Tasks for recurrent networks: sequences, a loss, a metric, and a baseline.

A task has three sets of sequences:

>>> task = mr.tasks.Digits()
>>> x, target = task.splits().train[0]
>>> assert x.shape == (64, 1) and target.shape == ()

It computes the loss and the metric of a batch of outputs:

>>> outputs = mr.zoo.exprnn(task.input_size, 16, task.output_size)(x[None])
>>> loss, accuracy = task.loss(outputs, target[None]), task.metric(outputs, target[None])

Compare every result with the baseline, the best prediction that does not use the input:

>>> assert mr.tasks.Digits().baseline().metric < 0.15
"""

from .adding import Adding
from .base import Score, Splits, Task
from .characters import Characters
from .copying import Copying
from .digits import Digits
from .group_words import GroupWords
from .one_hot import OneHot
from .pixels import PixelMNIST
from .published import Published
from .quadratic_system import QuadraticSystem
from .speech import Speech
from .synthetic_speech import SyntheticSpeech

__all__ = [
    "Adding",
    "Characters",
    "Copying",
    "Digits",
    "GroupWords",
    "OneHot",
    "PixelMNIST",
    "Published",
    "QuadraticSystem",
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
    exported = {name: globals()[name] for name in __all__}
    return [
        name
        for name, value in exported.items()
        if isinstance(value, type) and issubclass(value, Task) and value is not Task
    ]
