"""Compiles one library for each kind of processor. It needs only a C++ compiler.

The build hook loads this file by its path, so the file imports only the standard library. After changing the sources,
run ``python manifold_rnn/_kernels/building.py`` in a checkout, or install the package again.
"""

import hashlib
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = FOLDER / "cpp"

_COMPILER_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-fvisibility=hidden")
_LINKER_FLAGS = ("-shared", "-pthread")
# the compiler's runtime libraries are linked into ours and hidden; on macOS they belong to the system
_LINUX_FLAGS = ("-static-libgcc", "-static-libstdc++", "-Wl,--exclude-libs,ALL", "-Wl,--gc-sections")
_X86_VARIANTS = {
    "avx512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma"),
    "avx2": ("-mavx2", "-mfma"),
    "baseline": (),
}


def variants() -> dict[str, tuple[str, ...]]:
    """Return the compiler flags of each library of this platform, by library name, fastest first."""
    x86 = sysconfig.get_platform().rpartition("-")[2].lower() in ("x86_64", "amd64")
    return _X86_VARIANTS if x86 else {"baseline": ()}


def file_name(variant: str) -> str:
    """Return the file name of a library. It contains a hash of the sources."""
    digest = hashlib.sha256(repr([_COMPILER_FLAGS, variants().get(variant)]).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.read_bytes())
    return f"kernels_{variant}_{digest.hexdigest()[:12]}.so"


def compile_libraries(folder: Path = FOLDER) -> str:
    """Compile every library into a folder, then remove those of an earlier build.

    Parameters
    ----------
    folder : Path
        Where the libraries are written.

    Returns
    -------
    str
        "" on success; otherwise one line that says why a library could not be compiled.
    """
    earlier = set(folder.glob("kernels_*.so"))
    made, failure = _compiled(folder)
    for old in earlier - made:  # at the end, so that a stopped build leaves the libraries that were there
        old.unlink(missing_ok=True)
    return failure


def _compiled(folder: Path) -> tuple[set[Path], str]:
    """Return the libraries that were compiled, and the reason if one is missing."""
    if sys.platform == "win32":
        return set(), "the sources are for GCC and Clang, not for Windows"
    compiler = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    link = (*_LINKER_FLAGS, *(_LINUX_FLAGS if sys.platform.startswith("linux") else ()))
    made: set[Path] = set()
    # written elsewhere and renamed at the end, so no process loads a partial library
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        running = {}
        try:
            for variant, flags in variants().items():
                path = Path(temporary, file_name(variant))
                command = [
                    *compiler,
                    *_COMPILER_FLAGS,
                    *flags,
                    *map(str, sorted(SOURCES.glob("*.cpp"))),
                    *link,
                    "-o",
                    str(path),
                ]
                running[path] = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
        except OSError as error:
            return made, f"the compiler {compiler[0]!r} cannot be run ({error.strerror})"
        failures = []
        for path, process in running.items():
            _, messages = process.communicate()
            if process.returncode == 0:
                made.add(path.replace(folder / path.name))
            else:
                first = messages.strip().partition("\n")[0][:160]
                failures.append(f"{compiler[0]!r} failed for {path.name} ({first or f'status {process.returncode}'})")
    return made, "; ".join(failures)


if __name__ == "__main__":
    sys.exit(compile_libraries() or 0)
