"""The recorded outputs of DeepSpeed's quantizers, looked up by what was quantized."""

import json

import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope="session")
def golden(shared):
    """``golden(quantizer, bits, groups)``: input, output, cotangent and input gradient of DeepSpeed."""
    cases = json.loads((shared / "goldens/deepspeed_quantizers.json").read_text())
    arrays = np.load(shared / "goldens/deepspeed_quantizers.npz")
    keys = {(c["quantizer"], c["bits"], c["groups"]): c["key"] for c in cases if "static" not in c}

    def look_up(quantizer, bits, groups):
        key = keys[quantizer, bits, groups]
        return tuple(jnp.asarray(arrays[f"{key}.{name}"]) for name in ("x", "y", "ct", "gx"))

    return look_up
