"""Reads sound files: RIFF, and NIST SPHERE with uncompressed 16-bit samples."""

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .files import refuse, require_file
from .spectra import RATE

_FULL_SCALE = 32_768
_SPHERE = b"NIST_1A\n"


def read_sound(path: Path) -> Tensor:
    """Return the first channel at 8 kHz, from -1 to 1. Sounds at 16 kHz are filtered and downsampled.

    Raises
    ------
    OptionError
        If the file is damaged, compressed, not of 16 bits, or of another rate.
    """
    require_file(path)
    content = path.read_bytes()
    rate, samples = _sphere(path, content) if content.startswith(_SPHERE) else _riff(path)
    if not len(samples):
        refuse(path, "A sound file needs at least one sample.", "none", "Copy the file again.")
    wave = samples.astype(np.float64) / _FULL_SCALE
    if rate == 2 * RATE:
        from scipy.signal import resample_poly

        wave = resample_poly(wave, 1, 2)
    elif rate != RATE:
        refuse(path, "A sound file needs 16,000 or 8,000 samples per second.", f"{rate:,}", "Resample the file.")
    return torch.as_tensor(wave, dtype=torch.float32)


def _riff(path: Path) -> tuple[int, NDArray[np.int16]]:
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # scipy only warns about a truncated file
            rate, samples = wavfile.read(path)
    except Exception as error:  # scipy raises many kinds: ValueError, struct.error, UnboundLocalError
        got = (str(error) or type(error).__name__)[:80]
        refuse(
            path,
            "A sound needs to be a whole RIFF or NIST SPHERE file.",
            got,
            "Copy or convert the file again.",
        )
    if samples.dtype != np.int16:
        refuse(path, "A sound file needs samples of 16 bits.", f"{samples.dtype}", "Convert the file.")
    return rate, samples if samples.ndim == 1 else samples[:, 0]


def _sphere(path: Path, content: bytes) -> tuple[int, NDArray[np.int16]]:
    try:
        size = int(content[len(_SPHERE) : 16])
        if not 16 <= size <= len(content):
            raise ValueError(f"a header of {size} bytes in {len(content)} bytes")
        lines = content[16:size].decode("ascii", "replace").split("end_head")[0].splitlines()
        fields = {name: value for name, _, value in (line.split(maxsplit=2) for line in lines if line.strip())}
        rate, count = int(fields["sample_rate"]), int(fields["sample_count"])
        channels, width = int(fields.get("channel_count", 1)), int(fields["sample_n_bytes"])
        if count < 0 or channels < 1:
            raise ValueError(f"{count} samples in {channels} channels")
    except (KeyError, ValueError) as error:
        refuse(path, "A NIST SPHERE header needs sizes and rates.", f"{error}"[:80], "Copy the file again.")
    coding, order = fields.get("sample_coding", "pcm"), fields.get("sample_byte_format", "01")
    if coding != "pcm" or width != 2 or order not in ("01", "10"):
        rule = "A sound file needs uncompressed samples of 16 bits."
        refuse(
            path, rule, f"{width} bytes, {coding}, in the order {order}", "Convert the file, for example with sph2pipe."
        )
    samples = np.frombuffer(content, "<i2" if order == "01" else ">i2", (len(content) - size) // 2, size)
    if len(samples) < count * channels:
        rule = f"The header of a NIST SPHERE file needs the right number of samples.\nExpected {count * channels:,}."
        refuse(path, rule, f"{len(samples):,}", "The file is truncated. Copy it again.")
    return rate, samples[: count * channels : channels].astype(np.int16)
