"""The Hopper backend compiled to the end, ptxas included, for an H100 that is not here.

Runs where ``pip install jax-cuda12-plugin jax-cuda12-pjrt nvidia-cuda-nvcc-cu12`` (without their dependencies) has been done;
no driver is needed.
"""

import functools
import re
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies

from xtc_jax.kernels import PackedTensor
from xtc_jax.kernels.packed_matmul import mosaic_gpu, mosaic_gpu_quantize

pytestmark = pytest.mark.skipif(not find_spec("jax_cuda12_plugin"), reason="jax-cuda12-plugin is not installed")

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
  shared_memory_per_block: 49152  shared_memory_per_core: 233472  shared_memory_per_block_optin: 232448
  core_count: 132  fpus_per_core: 128  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024  thread_dim_limit_y: 1024  thread_dim_limit_z: 64
  memory_bandwidth: 3352320000000  l2_cache_size: 52428800  clock_rate_ghz: 1.98  device_memory_size: 84942979072
  cuda_compute_capability { major: 9  feature_extension: ACCELERATED_FEATURES }
  device_vendor: "NVIDIA Corporation"  name: "NVIDIA H100 80GB HBM3"
  driver_version: "13.0.0"  runtime_version: "12.8.0"  compile_time_toolkit_version: "12.8.0"  dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9  minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@functools.cache
def device():
    return topologies.get_topology_desc(platform="cuda", topology_name="", target_config=H100, topology="1x1x1").devices[0]


def argument(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.SingleDeviceSharding(device()))


def compiled(f, m, n, k, bits, dtype):
    """The optimized HLO of ``f(x, weights, bias)``."""

    def program(x, codes, scale, bias):
        return f(x, PackedTensor(codes, scale, (n, k), bits, None, mosaic_gpu.LAYOUT), bias)

    codes, scale = argument((n, k * bits // 8), jnp.int8), argument((1,), jnp.float32)
    return jax.jit(program).lower(argument((m, k), dtype), codes, scale, argument((n,), jnp.float32)).compile().as_text()


def operations(hlo):
    """What the entry computation launches."""
    entry = hlo[hlo.index("ENTRY") :]
    return re.findall(r" (fusion|custom-call|copy|reduce|convert|pad|slice)\(", entry)


@pytest.mark.parametrize(("largest_k", "kernels"), [(4096, ["custom-call"] * 2), (0, ["fusion"] * 3 + ["custom-call"])])
def test_a_linear_layer_is_two_kernels_where_xla_would_quantize_in_three(monkeypatch, largest_k, kernels):
    monkeypatch.setattr(mosaic_gpu_quantize, "LARGEST_K", largest_k)

    def layer(x, weights, bias):
        return mosaic_gpu.matmul(x, weights, bias=bias, activation="gelu", dtype=x.dtype)

    assert operations(compiled(layer, 4096, 3072, 768, 2, jnp.bfloat16)) == kernels


def test_projections_of_the_same_activations_quantize_them_once():
    def projections(x, weights, bias):
        return [mosaic_gpu.matmul(x, weights, bias=b, dtype=x.dtype) for b in (bias, -bias, 2 * bias)]

    assert operations(compiled(projections, 512, 768, 768, 2, jnp.bfloat16)).count("custom-call") == 1 + 3


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("m", [8, 64, 4096])
def test_ptxas_spills_no_register(tmp_path, monkeypatch, m, bits, dtype):
    monkeypatch.setenv("MOSAIC_GPU_DUMP_PTXAS", "1")
    monkeypatch.setenv("MOSAIC_GPU_DUMP_TO", str(tmp_path))
    f = functools.partial(mosaic_gpu.matmul, activation="gelu", dtype=dtype)
    compiled(lambda x, weights, bias: f(x, weights, bias=bias), m, 3072, 768 + 256 * bits, bits, dtype)
    spills = [re.findall(r"(\d+) bytes spill (?:stores|loads)", path.read_text()) for path in tmp_path.glob("*.ptxas")]
    assert spills == [["0", "0"]] * 2
