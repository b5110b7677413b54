"""``python -m manifold_rnn`` is ``manifold-rnn``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
