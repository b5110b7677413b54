"""What the tests share: cases, naive references, tolerances and stand-ins."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
