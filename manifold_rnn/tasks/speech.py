"""TIMIT: predicting the next frame of the spectrogram of recorded speech."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from ..errors import OptionError
from .audio import read_sound
from .base import Splits
from .files import data_folder, refuse, shown
from .spectra import Frames, NextFrame, log_spectrum, padded

_COMPLETE = (3_640, 400, 192)
_DEVELOPMENT_SPEAKERS = """
    faks0 fdac1 fjem0 mgwt0 mjar0 mmdb1 mmdm2 mpdf0 fcmh0 fkms0 mbdg0 mbwm0 mcsh0 fadg0 fdms0 fedw0 mgjf0 mglb0 mrtk0
    mtaa0 mtdt0 mthc0 mwjg0 fnmr0 frew0 fsem0 mbns0 mmjr0 mdls0 mdlf0 mdvc0 mers0 fmah0 fdrw0 mrcs0 mrjm4 fcal1 mmwh0
    fjsj0 majc0 mjsw0 mreb0 fgjd0 fjmg0 mroa0 mteb0 mjfc0 mrjr0 fmml0 mrws1
"""
_CORE_TEST_SPEAKERS = """
    mdab0 mwbt0 felc0 mtas1 mwew0 fpas0 mjmp0 mlnt0 fpkt0 mlll0 mtls0 fjlm0 mbpm0 mklt0 fnlp0 mcmj0 mjdh0 fmgd0 mgrt0
    mnjm0 fdhc0 mjln0 mpam0 fmld0
"""
_PART_OF = dict.fromkeys(_DEVELOPMENT_SPEAKERS.split(), "development")
_PART_OF |= dict.fromkeys(_CORE_TEST_SPEAKERS.split(), "core test")


@dataclass(frozen=True)
class Speech(Frames):
    r"""Predict the next frame of speech from all frames before it, with the protocol of full-capacity uRNN on TIMIT.

    TIMIT has a license and is not part of this package, so you need a copy. Sounds of 16 kHz are downsampled to 8 kHz.
    A frame has the 129 numbers :math:`10 \log_{10}(10^{-5} + |X|^2)` of the Fourier transform X of 256 samples under a
    Hann window. The next frame starts 128 samples later. Nothing is normalized. A window of silence is added before and
    after each sound.

    A complete copy has 3,640 utterances for training. Validation uses the 400 utterances of the 50 development
    speakers, and the test uses the 192 utterances of the 24 speakers of the core test. The utterances SA1 and SA2,
    which all speakers share, are left out by the rule of the released code. This rule excludes every name that contains
    "sa", and so also seven training speakers, such as FSAH0.

    Targets have 130 features: the 129 of the frame, and 1 for a frame of the sound or 0 for padding.

    **Loss** and **metric**: mean squared error over the frames of a batch, without padding. Lower is better.
    **Baseline**: the best constant prediction is the mean frame. Its loss is the mean variance of the 129 bins over all
    target frames of the training set.

    Parameters
    ----------
    data_dir : str or Path, optional
        Folder with ``TRAIN`` and ``TEST`` at any depth, and a folder for each speaker. The files are RIFF or NIST
        SPHERE with 16 bits. The case of names does not matter. Default: the environment variable ``MANIFOLD_RNN_DATA``,
        or a folder ``timit`` in it.
    length : int
        Number of time steps to which all utterances are padded. A longer utterance raises an error.

    Raises
    ------
    OptionError
        If ``length`` is below 1. Methods that read the sounds raise it if a set is empty. They also raise it if a file
        is damaged, compressed, of another rate, or longer than ``length``.

    Warns
    -----
    UserWarning
        If the sets are smaller than those of a complete copy.

    Notes
    -----
    Before you compare results: the released code of full-capacity uRNN divides the error by *all* frames, including
    padding, which makes it smaller. The mean here excludes padding, as in expRNN. The code of expRNN swaps validation
    and test. Source: Wisdom et al. (2016).

    Examples
    --------
    >>> task = mr.tasks.Speech(length=400)
    >>> assert (task.input_size, task.output_size, task.length) == (129, 129, 400)
    """

    data_dir: str | Path | None = None
    length: int = 500

    name: ClassVar[str] = "speech"
    problem: ClassVar[str] = "spectra of speech"

    def __post_init__(self) -> None:
        if self.length < 1:
            raise OptionError(
                f"Speech needs sequences of at least 1 time step.\nGot length {self.length}.\nUse a larger length."
            )

    def splits(self) -> Splits:
        """Return the three sets. The files are read only once."""
        splits = _load(data_folder("Speech", self.data_dir, "timit", "TIMIT"), self.length)
        sizes = tuple(len(part) for part in splits)
        if sizes != _COMPLETE:
            warnings.warn(
                f"A complete TIMIT has {_COMPLETE} utterances, but got {sizes}. Do not compare with published results.",
                stacklevel=2,
            )
        return splits


@lru_cache(maxsize=1)  # one entry, because it takes a gigabyte
def _load(folder: Path, length: int) -> Splits:
    paths_by_part: dict[str, dict[tuple[str, str], Path]] = {"training": {}, "development": {}, "core test": {}}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() == ".wav":
            speaker, utterance = path.parent.name.lower(), path.name.lower().split(".")[0]
            part = _part(speaker, {above.name.lower() for above in path.relative_to(folder).parents})
            if part and "sa" not in speaker and "sa" not in utterance:
                paths_by_part[part].setdefault((speaker, utterance), path)  # some copies contain both formats
    for part, paths in paths_by_part.items():
        if not paths:
            raise OptionError(
                f"Speech needs the {part} speakers of TIMIT.\n"
                f"Expected TRAIN and TEST with a folder for each speaker; none of these below {shown(folder)}.\n"
                "Check data_dir."
            )
    return Splits(*(_read(paths.values(), length) for paths in paths_by_part.values()))


def _part(speaker: str, folders: set[str]) -> str | None:
    if "train" in folders:
        return "training"
    return _PART_OF.get(speaker) if "test" in folders else None


def _read(paths: Iterable[Path], length: int) -> NextFrame:
    spectra = []
    for path in paths:
        spectra.append(log_spectrum(read_sound(path)))
        if len(spectra[-1]) > length + 1:
            got = f"{len(spectra[-1]) - 1:,}"
            refuse(
                path, f"An utterance needs to have at most length = {length:,} time steps.", got, "Use a larger length."
            )
    return padded(spectra, length)
