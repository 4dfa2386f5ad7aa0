"""``python -m xtc_jax.cli``."""

import sys

from xtc_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
