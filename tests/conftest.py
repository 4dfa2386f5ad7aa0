"""What every test runs under: four fake devices, strict promotion, warnings as errors, checked array types."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_threefry_partitionable", True)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items):
    """Skip, loudly (-ra), what cannot run here. CI sets XTC_REQUIRE to fail instead."""
    required = os.environ.get("XTC_REQUIRE", "").split(",")
    lacks = {
        "shared": not SHARED.is_dir() and "../shared is not beside this checkout",
        "torch": importlib.util.find_spec("torch") is None and "torch is not installed",
    }
    for item in items:
        for marker, reason in lacks.items():
            if item.get_closest_marker(marker) and reason and marker not in required:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of goldens and GLUE data beside the checkout."""
    return SHARED


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
