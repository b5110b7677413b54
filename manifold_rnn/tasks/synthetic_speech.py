"""A replacement for recorded speech that needs no files."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import OptionError
from .spectra import BINS, HOP, RATE, WINDOW, Frames, NextFrame, log_spectrum
from .synthetic import Synthetic, require_drawn

_HARMONICS = 24
_SILENT = 2 * WINDOW // HOP - 1  # number of frames around the sound itself


@dataclass(frozen=True)
class SyntheticSpeech(Frames, Synthetic):
    r"""Predict the next frame of a synthetic sound that resembles a voice.

    The frames are defined as in `Speech`. The pitch of a sound changes between two values from 90 to 250 Hz. The sound
    has 24 harmonics, which are strong near two moving resonances. Its loudness rises and falls four to ten times a
    second, and noise is added. It lasts from half of ``length`` to all of it, with silence as padding.

    Targets have 130 features: the 129 of the frame, and 1 for a frame of the sound or 0 for padding.

    **Loss** and **metric**: mean squared error over the frames of a batch, without padding. Lower is better.
    **Baseline**: the best constant prediction is the mean frame. Its loss is the mean variance of the 129 bins over all
    target frames of the training set.

    Parameters
    ----------
    length : int
        Number of time steps of the longest sound, one less than its number of frames.
    sizes : tuple of int
        Number of sounds for training, validation and test.
    seed : int
        Random seed of all sounds, from 0 to :math:`2^{32} - 1`.
    fresh : bool
        Whether to draw a new training set for every epoch.

    Raises
    ------
    OptionError
        If ``length`` is below 8, a size below 1, or the seed out of range.

    Notes
    -----
    Use it for tests and first experiments. There are no published results for it.

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
            raise OptionError(
                f"SyntheticSpeech needs sounds of at least 8 time steps.\nGot {self.length}.\nUse a larger length."
            )

    @property
    def sequence_bytes(self) -> int:
        return 4 * BINS * self.length

    def draw(self, count: int, generator: torch.Generator | None) -> NextFrame:
        """Return ``count`` new sounds."""
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
