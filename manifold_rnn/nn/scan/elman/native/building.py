"""The C++ library of the native scan: compiled once on the machine that uses it, and loaded from there."""

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

# by torch's name for the vectors of the processor, so that different machines can share the folder
_VECTOR_FLAGS = {
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"),
    "AVX2": ("-mavx2", "-mfma"),
}
_loaded: dict[str, ctypes.CDLL] = {}  # by path
_failures: dict[str, str] = {}

_log = logging.getLogger(__name__)


def build_native() -> bool:
    """Compile the native scan, unless this was done before on this machine, and return whether it can be used.

    It takes about ten seconds and needs a C++ compiler (GCC or Clang) and ninja, which the extra ``native`` installs.
    The library is kept in the folder of torch's extensions, ``TORCH_EXTENSIONS_DIR`` or ``~/.cache/torch_extensions``.
    From then on, also in later processes, ``backend="auto"`` uses it where it is faster.

    Returns
    -------
    bool
        Whether the library can be used. If not, ``backend="native"`` raises an error with the reason.

    Notes
    -----
    Neither the import of this package nor ``backend="auto"`` compiles anything. A layer with ``backend="native"``
    compiles the library at its first call, with a warning in the log. One library is kept for each version of the
    source and of torch, and for each kind of processor.

    Examples
    --------
    >>> if mr.nn.scan.build_native():
    ...     layer = mr.nn.RNN(1, 4, backend="native")
    ...     assert layer(torch.ones(3, 2, 1))[0].shape == (3, 2, 4)
    """
    path = library_path()
    _failures.pop(path, None)
    if load_library() is None:
        _failures.pop(path, None)
        try:
            _compile(Path(path))
        except Exception as error:  # any fault of this machine is a reason to run another scan
            _log.debug("The native scan was not built", exc_info=True)
            _failures[path] = str(error).strip().partition("\n")[0][:120]
    return load_library() is not None


def is_built() -> bool:
    """Return whether there is a library that has not failed to load; this loads nothing."""
    path = library_path()
    return path in _loaded or (path not in _failures and os.path.exists(path))


def load_library() -> ctypes.CDLL | None:
    """Return the library, loaded, or None if it is not built or cannot be loaded."""
    path = library_path()
    if path not in _loaded and path not in _failures and os.path.exists(path):
        try:
            _loaded[path] = ctypes.CDLL(path)
        except OSError as error:
            _failures[path] = str(error)[:120]
    return _loaded.get(path)


def load_or_build(*, build: bool) -> str:
    """Load the library, and build it first if ``build`` and nobody has tried; return why this failed, or ""."""
    if load_library() is None and build and library_path() not in _failures:
        _log.warning("Compiling the native scan, once on this machine; it takes some seconds.")
        build_native()
    if load_library() is not None:
        return ""
    return f"its library could not be built or loaded ({_failures.get(library_path(), 'it was not built')})"


def library_path() -> str:
    """Return the path of the library, whether it exists or not."""
    return _path_below(os.environ.get("TORCH_EXTENSIONS_DIR"))


@functools.cache
def _path_below(root: str | None) -> str:
    folder = Path(root) if root else Path.home() / ".cache" / "torch_extensions"
    return str(folder / "manifold_rnn" / f"scan_{source_digest()}.so")


@functools.cache
def source_digest() -> str:
    """Return a digest of everything that determines the library: sources, compiler flags and the version of torch."""
    sources = [path.read_text(encoding="utf-8") for path in sorted(SOURCE.parent.iterdir()) if path.is_file()]
    parts = [torch.__version__, *_compiler_flags(), *sources]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _compiler_flags() -> tuple[str, ...]:
    threads = ("-fopenmp",) if sys.platform == "linux" else ()
    vectors = _VECTOR_FLAGS.get(torch.backends.cpu.get_cpu_capability(), ())
    return ("-O3", "-fno-math-errno", "-fno-trapping-math", *vectors, *threads)


def _compile(path: Path) -> None:
    if sys.platform == "win32":
        raise RuntimeError("the source is for GCC and Clang, not for Windows")
    compiler = (shlex.split(os.environ.get("CXX", "")) or ["c++"])[0]
    if shutil.which(compiler) is None:
        raise RuntimeError(f"there is no compiler {compiler}")
    from torch.utils import cpp_extension

    if not cpp_extension.is_ninja_available():
        raise RuntimeError("there is no ninja; install manifold-rnn[native]")
    path.parent.mkdir(parents=True, exist_ok=True)
    # a temporary folder and a final rename: no process waits for a lock of another or reads half a file
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cpp_extension.load(
            path.stem,
            [str(SOURCE)],
            extra_cflags=list(_compiler_flags()),
            extra_ldflags=["-fopenmp"] if "-fopenmp" in _compiler_flags() else [],
            build_directory=folder,
            is_python_module=False,
        )
        (built,) = Path(folder).glob("*.so")
        built.replace(path)
