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
    r"""Predict the next frame of speech from all before it, with the protocol of full-capacity uRNN on TIMIT.

    TIMIT is under a licence and not part of this package: a copy is read. Sounds of 16 kHz are halved to 8 kHz; a frame
    is :math:`10 \log_{10}(10^{-5} + |X|^2)` of the Fourier transform X of 256 samples under Hann's window, 129 numbers;
    the next frame is 128 samples on. Nothing is normalised. A window of silence stands before and after each sound.

    A complete copy gives 3,640 utterances for training, the 400 of the 50 development speakers for validation, and the
    192 of the core test's 24 speakers for the test. The utterances SA1 and SA2, which all speakers share, are left out,
    by the rule of the released code: so is everything with "sa" in its name, and with it seven training speakers, such
    as FSAH0.

    Targets have 130 features: the 129 of the frame, and 1 for a frame of the sound or 0 for padding.

    **Loss** and **metric**: mean squared error over the frames of a batch that are no padding; lower is better.
    **Baseline**: the best constant guess is the mean frame; its loss is the mean variance of the 129 bins over all
    frames that are to be predicted in the training set.

    Parameters
    ----------
    data_dir : str or Path, optional
        Folder with ``TRAIN`` and ``TEST`` at any depth, speakers as folders, RIFF or NIST SPHERE files of 16 bits, in
        names of either case. Default: the environment variable ``MANIFOLD_RNN_DATA``, or a folder ``timit`` in it.
    length : int
        Steps that all utterances are padded to. A longer utterance is refused.

    Raises
    ------
    OptionError
        If ``length`` is below 1; by everything that reads the sounds, if a set is empty, or a file is damaged,
        compressed, of another rate, or longer than ``length``.

    Warns
    -----
    UserWarning
        If the sets are not as large as those of a complete copy.

    Notes
    -----
    Read before comparing: the released code of full-capacity uRNN divides the error by *all* frames, padding included,
    which makes it smaller; this mean, like that of expRNN, does not. And the code of expRNN has validation and test the
    other way round. Source: Wisdom et al. (2016).

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
            raise OptionError(f"Speech needs sequences of at least 1 step.\nGot length {self.length}.\nUse more.")

    def splits(self) -> Splits:
        """Return the three sets, read once."""
        splits = _load(data_folder("Speech", self.data_dir, "timit", "TIMIT"), self.length)
        sizes = tuple(len(part) for part in splits)
        if sizes != _COMPLETE:
            warnings.warn(
                f"A complete TIMIT gives {_COMPLETE} utterances, these files {sizes}: do not compare with others.",
                stacklevel=2,
            )
        return splits


@lru_cache(maxsize=1)  # a gigabyte
def _load(folder: Path, length: int) -> Splits:
    paths_by_part: dict[str, dict[tuple[str, str], Path]] = {"training": {}, "development": {}, "core test": {}}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() == ".wav":
            speaker, utterance = path.parent.name.lower(), path.name.lower().split(".")[0]
            part = _part(speaker, {above.name.lower() for above in path.relative_to(folder).parents})
            if part and "sa" not in speaker and "sa" not in utterance:
                paths_by_part[part].setdefault((speaker, utterance), path)  # some copies have both formats
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
            refuse(path, f"Speech has at most length = {length:,} steps.", got, "Use a larger length.")
    return padded(spectra, length)
