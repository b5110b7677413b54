"""Runs proselint on the documentation: ``tox -e docs``.

It lists the files, because proselint skips ``.rst`` and ``.py`` files in folders. ``.proselintrc.json`` disables two
groups of checks. Typography would change code, and repeated words are common in formulas. A test in the project finds
repeated words of sentences.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "docs/*.rst", "docs/guide/*.rst", "docs/networks/*.rst", "examples/*.rst", "examples/*.py")


def main() -> int:
    """Print every finding, and return the exit status of proselint."""
    files = [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    return subprocess.run([sys.executable, "-m", "proselint", "check", *files], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
