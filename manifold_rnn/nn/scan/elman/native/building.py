"""The library of the native scan: compiled once on the machine that uses it, and found there again."""

import ctypes
import functools
import hashlib
import logging
import os
import shlex
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("cpp") / "scan.cpp"

# by the name that torch has for what the processor can do, so that a shared folder serves unlike machines
_VECTORS = {
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"),
    "AVX2": ("-mavx2", "-mfma"),
}
_loaded: dict[str, ctypes.CDLL] = {}
_failures: dict[str, str] = {}

_log = logging.getLogger(__name__)


def build_native() -> bool:
    """Compile the native scan, unless that was done before on this machine, and say whether it can be used.

    It takes some seconds, a C++ compiler (GCC or Clang) and ninja, which the extra ``native`` installs. The library is
    kept in the folder of torch's extensions, ``TORCH_EXTENSIONS_DIR`` or ``~/.cache/torch_extensions``, and from then
    on, in later processes too, ``backend="auto"`` takes it where it fits.

    Returns
    -------
    bool
        Whether there is a library. If not, ``backend="native"`` raises an error that says why.

    Notes
    -----
    Neither an import nor ``backend="auto"`` ever compiles. One library is kept for each version of the source and of
    torch, and for each kind of processor.

    Examples
    --------
    >>> if mr.nn.scan.build_native():
    ...     layer = mr.nn.RNN(1, 4, backend="native")
    ...     assert layer(torch.ones(3, 2, 1))[0].shape == (3, 2, 4)
    """
    path = _path()
    _failures.pop(path, None)
    if library() is None:
        _failures.pop(path, None)
        try:
            _compile(Path(path))
        except Exception as error:  # whatever is wrong with that machine
            _log.debug("The native scan was not built", exc_info=True)
            _failures[path] = str(error).strip().partition("\n")[0][:120]
    return library() is not None


def library() -> ctypes.CDLL | None:
    """Return the library if it was built, by whichever process."""
    path = _path()
    if path not in _loaded and path not in _failures and os.path.exists(path):
        try:
            _loaded[path] = ctypes.CDLL(path)
        except OSError as error:
            _failures[path] = str(error)[:120]
    return _loaded.get(path)


def cannot_load() -> str:
    """Why there is no library, or nothing; if nobody has tried, it is built."""
    if library() is None and _path() not in _failures:
        _log.warning("Compiling the native scan, once on this machine; it takes some seconds.")
        build_native()
    return "" if library() is not None else f"it could not be built, or loaded: {_failures[_path()]}"


def _path() -> str:
    return _path_below(os.environ.get("TORCH_EXTENSIONS_DIR"))


@functools.cache
def _path_below(root: str | None) -> str:
    folder = Path(root) if root else Path.home() / ".cache" / "torch_extensions"
    return str(folder / "manifold_rnn" / f"scan_{_key()}.so")


@functools.cache
def _key() -> str:
    sources = [path.read_text(encoding="utf-8") for path in sorted(SOURCE.parent.iterdir()) if path.is_file()]
    told = [torch.__version__, *_flags(), *sources]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def _flags() -> tuple[str, ...]:
    threads = ("-fopenmp",) if sys.platform == "linux" else ()
    vectors = _VECTORS.get(torch.backends.cpu.get_cpu_capability(), ())
    return ("-O3", "-fno-math-errno", "-fno-trapping-math", *vectors, *threads)


def _compile(path: Path) -> None:
    if sys.platform == "win32":
        raise RuntimeError("it is written for GCC and Clang, which Windows seldom has")
    compiler = (shlex.split(os.environ.get("CXX", "")) or ["c++"])[0]
    if shutil.which(compiler) is None:
        raise RuntimeError(f"there is no compiler {compiler}")
    from torch.utils import cpp_extension

    if not cpp_extension.is_ninja_available():
        raise RuntimeError("there is no ninja; install manifold-rnn[native]")
    path.parent.mkdir(parents=True, exist_ok=True)
    # a folder of its own, and a move in the end: no process waits for another's lock, or sees half a file
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cpp_extension.load(
            path.stem,
            [str(SOURCE)],
            extra_cflags=list(_flags()),
            extra_ldflags=["-fopenmp"] if "-fopenmp" in _flags() else [],
            build_directory=folder,
            is_python_module=False,
        )
        (built,) = Path(folder).glob("*.so")
        built.replace(path)
