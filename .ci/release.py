"""Builds the sdist and the wheel, and uses each of them as somebody who has nothing else: ``tox -e release``.

The built files stay in ``dist``. Nothing is uploaded.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_SHIPPED = {".gitignore"}
RUN_A_SCAN = """
import logging, sys, torch, manifold_rnn as mr
logging.basicConfig(stream=sys.stdout)
logging.getLogger("manifold_rnn").setLevel(logging.DEBUG)
mr.nn.RNN(3, 16)(torch.zeros(50, 4, 3))
"""


def call(*command: str | Path, cwd: Path, quiet: bool = False) -> str:
    """Run a command, echoed, and return what it prints; an error ends the release."""
    print("+", *command, flush=True)
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True)
    print("" if quiet else done.stdout[-2000:], end="", flush=True)
    if done.returncode:
        sys.exit(f"{command[0]} ended with status {done.returncode}.")
    return done.stdout


def build() -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    call(sys.executable, "-m", "build", cwd=ROOT)
    (sdist,), (wheel,) = (ROOT / "dist").glob("*.tar.gz"), (ROOT / "dist").glob("*.whl")
    if wheel.name.endswith("-any.whl"):
        sys.exit("The wheel has no compiled library. Install a C++ compiler, or name it by CXX.")
    return sdist, wheel


def unpack(sdist: Path, into: Path) -> Path:
    """Unpack the sdist; it must have every file of the repository."""
    with tarfile.open(sdist) as archive:
        archive.extractall(into, filter="data")
    (source,) = into.iterdir()
    tracked = set(call("git", "ls-files", cwd=ROOT, quiet=True).splitlines()) - NOT_SHIPPED
    missing = sorted(name for name in tracked if not (source / name).is_file())
    if missing:
        sys.exit(f"The sdist has {len(missing)} files less than the repository, the first: {missing[:5]}.")
    if compiled := sorted(source.rglob("*.so")):
        sys.exit(f"The sdist contains compiled files, the first: {compiled[0].relative_to(source)}.")
    return source


def use(wheel: Path, source: Path, place: Path) -> None:
    """Install the wheel into a new environment, use it from another folder, and run tests of the sdist with it."""
    call(sys.executable, "-m", "venv", place / "venv", cwd=place)
    binaries = place / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = binaries / "python"
    pinned = [python, "-m", "pip", "install", "--quiet", "-c", source / "constraints.txt"]
    call(*pinned, f"manifold-rnn[train] @ {wheel.as_uri()}", cwd=place)
    for name in ("manifold_rnn", "manifold_rnn.training", "manifold_rnn.study", "manifold_rnn.cli"):
        code = f"import {name} as m; print(m.__file__)"
        if not Path(call(python, "-W", "error", "-c", code, cwd=place).strip()).is_relative_to(place / "venv"):
            sys.exit(f"{name} was not imported from the wheel.")
    if "native scan for Elman" not in call(python, "-W", "error", "-c", RUN_A_SCAN, cwd=place):
        sys.exit("The installed wheel does not run its compiled scan.")
    call(binaries / "manifold-rnn", "demo", "--epochs", "1", "--output", "demo", cwd=place)
    if not (place / "demo" / "report.html").is_file():
        sys.exit("The demo wrote no report.")
    call(*pinned, f"manifold-rnn[train,test] @ {wheel.as_uri()}", cwd=place)
    call(python, "-m", "pytest", "--collect-only", "-qq", "tests", cwd=source, quiet=True)
    call(python, "-m", "pytest", "tests/formats", "tests/project/test_readme.py", cwd=source)


def main() -> None:
    """Build and check a release."""
    sdist, wheel = build()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary).resolve()
        (place / "sdist").mkdir()
        use(wheel, unpack(sdist, place / "sdist"), place)
    print(f"Ready: {sdist.name} and {wheel.name}.")


if __name__ == "__main__":
    main()
