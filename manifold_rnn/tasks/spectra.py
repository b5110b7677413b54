"""Predicting the next frame of a spectrogram: frames, padding, and an error without the padding."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import TensorDataset

from .base import Score, Task
from .memory import require_memory

if TYPE_CHECKING:
    import matplotlib.axes

RATE, WINDOW, HOP = 8_000, 256, 128
BINS = WINDOW // 2 + 1
_FLOOR = 1e-5
_SILENCE = -50.0  # 10 log10 of the smallest power


def log_spectrum(wave: Tensor) -> Tensor:
    r"""Return :math:`10 \log_{10}(10^{-5} + |X|^2)` of the short-time Fourier transform X.

    A window of silence is added before and after the sound. The end is padded to a multiple of the hop.

    Parameters
    ----------
    wave : Tensor, shape (..., n)
        Samples from -1 to 1.

    Returns
    -------
    Tensor, shape (..., ceil(n / 128) + 3, 129)
    """
    padded = functional.pad(wave, (WINDOW, WINDOW + -wave.shape[-1] % HOP))
    window = torch.hann_window(WINDOW, dtype=wave.dtype, device=wave.device)
    X = torch.stft(padded, WINDOW, HOP, window=window, center=False, return_complex=True)
    return (10 * (_FLOOR + X.abs().square()).log10()).mT


class NextFrame(TensorDataset):
    """Spectrograms of different lengths, padded with silence.

    Parameters
    ----------
    frames : Tensor, shape (N, T + 1, 129)
        Frames of all spectrograms, with padding.
    counts : Tensor of int64, shape (N,)
        Number of frames of each spectrogram without padding.

    Notes
    -----
    The input of an item is all frames but the last. The target is all frames but the first, with a further feature. It
    is 1 for a frame of the sound, and 0 for padding.
    """

    def __init__(self, frames: Tensor, counts: Tensor) -> None:
        super().__init__(frames, counts)

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> tuple[Tensor, ...]:
        frames, counts = (tensor[index] for tensor in self.tensors)
        after = frames[..., 1:, :]
        own = torch.arange(1, frames.shape[-2]) < counts.unsqueeze(-1)
        return frames[..., :-1, :], torch.cat([after, own.unsqueeze(-1).to(after.dtype)], dim=-1)


def padded(spectra: Sequence[Tensor], steps: int) -> NextFrame:
    """Stack spectrograms of shape (at most steps + 1, 129)."""
    require_memory("task.length", 4 * len(spectra) * (steps + 1) * BINS, "a set of frames", f"{steps:,}")
    frames = torch.full((len(spectra), steps + 1, BINS), _SILENCE)
    for row, spectrum in zip(frames, spectra, strict=True):
        row[: len(spectrum)] = spectrum
    return NextFrame(frames, torch.tensor([len(spectrum) for spectrum in spectra]))


class Frames(Task):
    """Predict the next frame, with the mean squared error over all frames except padding."""

    metric_name: ClassVar[str] = "mean squared error"
    higher_is_better: ClassVar[bool] = False
    every_step: ClassVar[bool] = True
    input_size: ClassVar[int] = BINS
    output_size: ClassVar[int] = BINS

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error of frames (B, T, 129), over those marked in the targets."""
        frames, own = targets[..., :-1], targets[..., -1:]
        return ((outputs - frames).square() * own).sum() / (own.sum() * BINS)

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the same value as the loss."""
        return self.loss(outputs, targets)

    def baseline(self) -> Score:
        """Return the mean variance of the bins over all target frames of the training set."""
        _, targets = self.splits().train[:]
        frames = targets[targets[..., -1] == 1][:, :-1]
        loss = float(frames.var(0, correction=0).mean())
        return Score(loss=loss, metric=loss)

    def plot(self, axes: "matplotlib.axes.Axes") -> None:
        """Draw the first spectrogram of the training set."""
        frames, counts = self.splits().train.tensors
        ends = (0, int(counts[0]) * HOP / RATE, 0, RATE / 2000)
        axes.imshow(frames[0, : counts[0]].T.numpy(), origin="lower", aspect="auto", extent=ends)
        axes.set(title=self.name, xlabel="seconds", ylabel="kHz")
