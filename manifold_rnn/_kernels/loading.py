"""Chooses and loads the fastest library that this processor can run."""

import ctypes
from functools import cache
from pathlib import Path

import torch

from . import building

# by torch's name for the processor's vector instructions
_LIBRARIES = {"AVX512": ("avx512", "avx2", "baseline"), "AVX2": ("avx2", "baseline")}
_NOT_INSTALLED = "the package was installed without its compiled library, which needs a C++ compiler"


def runnable_variants() -> tuple[str, ...]:
    """Return the names of the libraries that this processor can run, fastest first, installed or not."""
    return _LIBRARIES.get(torch.backends.cpu.get_cpu_capability(), ("baseline",))


def is_installed() -> bool:
    """Return whether a library for this processor is installed, without loading it."""
    return bool(_paths(runnable_variants(), building.FOLDER))


def library() -> ctypes.CDLL | None:
    """Return the fastest library that can be loaded, or None."""
    return _load(runnable_variants(), building.FOLDER)[0]


def failure() -> str:
    """Return one line that says why no library can be used, or "" if one can."""
    return _load(runnable_variants(), building.FOLDER)[1]


@cache
def _paths(variants: tuple[str, ...], folder: Path) -> tuple[Path, ...]:
    paths = (folder / building.file_name(variant) for variant in variants)
    return tuple(path for path in paths if path.exists())


@cache
def _load(variants: tuple[str, ...], folder: Path) -> tuple[ctypes.CDLL | None, str]:
    problem = _NOT_INSTALLED
    for path in _paths(variants, folder):
        try:
            return ctypes.CDLL(str(path)), ""
        except OSError as error:
            problem = f"its library could not be loaded ({str(error)[:120]})"
    return None, problem
