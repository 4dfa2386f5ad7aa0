"""``python -m xtc_jax.kernels.packed_matmul.native`` builds the library beside its sources."""

import sys

from xtc_jax.kernels.packed_matmul.native.build import build

try:
    sys.stdout.write(f"{build()}\n")
except RuntimeError as error:
    sys.exit(f"native kernel: not built: {error}")
