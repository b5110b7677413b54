"""A stand-in for recorded speech that needs no files."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import OptionError
from .spectra import BINS, HOP, RATE, WINDOW, Frames, NextFrame, log_spectrum
from .synthetic import Synthetic, require_drawn

_HARMONICS = 24
_SILENT = 2 * WINDOW // HOP - 1  # frames beyond those of the sound itself


@dataclass(frozen=True)
class SyntheticSpeech(Frames, Synthetic):
    r"""Predict the next frame of a sound that is like a voice: a gliding tone, coloured by resonances, in syllables.

    The frames are those of `Speech`. A sound has a pitch that glides between two of 90 to 250 Hz, and 24 harmonics,
    strong where two gliding resonances are; its loudness rises and falls four to ten times a second; there is some
    noise. It lasts for half of ``length`` to all of it, with silence as padding.

    Targets have 130 features: the 129 of the frame, and 1 for a frame of the sound or 0 for padding.

    **Loss** and **metric**: mean squared error over the frames of a batch that are no padding; lower is better.
    **Baseline**: the best constant guess is the mean frame; its loss is the mean variance of the 129 bins over all
    frames that are to be predicted in the training set.

    Parameters
    ----------
    length : int
        Steps of the longest sound, one less than its frames.
    sizes : tuple of int
        Sounds for training, validation and test.
    seed : int
        Of all of them, from 0 to :math:`2^{32} - 1`.
    fresh : bool
        Whether to draw another training set for every epoch.

    Raises
    ------
    OptionError
        If ``length`` is below 8, a size below 1, or the seed out of range.

    Notes
    -----
    It is for tests and first trials: no published number has to do with it.

    Examples
    --------
    >>> task = mr.tasks.SyntheticSpeech(length=20, sizes=(8, 2, 2))
    >>> x, target = task.splits().train[:]
    >>> assert x.shape == (8, 20, 129) and target.shape == (8, 20, 130)
    >>> assert torch.equal(x[:, 1:], target[:, :-1, :-1]) and task.loss(target[..., :-1], target) == 0
    """

    length: int = 60
    sizes: tuple[int, int, int] = (256, 32, 32)
    seed: int = 0
    fresh: bool = False

    name: ClassVar[str] = "synthetic speech"

    def __post_init__(self) -> None:
        require_drawn(self)
        if self.length < 8:
            raise OptionError(f"SyntheticSpeech needs sounds of at least 8 steps.\nGot {self.length}.\nUse more.")

    @property
    def sequence_bytes(self) -> int:
        return 4 * BINS * self.length

    def draw(self, count: int, generator: torch.Generator | None) -> NextFrame:
        """Return so many new sounds."""
        most = self.length + 1 - _SILENT
        own = torch.randint(math.ceil(most / 2), most + 1, (count,), generator=generator)
        time = torch.arange(most * HOP) / RATE
        wave = _voices(time, count, generator) * (time * RATE < HOP * own[:, None])
        return NextFrame(log_spectrum(wave), own + _SILENT)


def _voices(time: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, generator=generator)

    def glide(low: float, high: float) -> Tensor:
        return between(low, high) + (between(low, high) - between(low, high)) * time / time[-1]

    pitch = glide(90, 250).clamp(min=60)
    resonances = glide(300, 900), glide(1000, 2600)
    phase = 2 * math.pi * (pitch / RATE).cumsum(-1)
    wave = 0.003 * torch.randn(count, len(time), generator=generator)
    for k in range(1, _HARMONICS + 1):
        colour = sum(1 / (1 + ((k * pitch - at) / 60).square()) for at in resonances)
        wave += 0.2 * colour * (k * phase).sin() * (k * pitch < RATE / 2)
    syllables = (math.pi * (between(2, 5) * time + between(0, 1))).sin().square()
    return wave * (0.02 + syllables)
