"""``packed_matmul`` in C++ on a CPU: the integers of the reference bit for bit, whatever the instruction set or the threads."""

import dataclasses
import functools
import re
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtc_jax.bert import BertConfig, apply, init
from xtc_jax.compress import pack, ready
from xtc_jax.errors import UserError
from xtc_jax.kernels import BASE3, choose, integer_matmul, pack_tensor, packed_matmul, prepare
from xtc_jax.kernels.packed_matmul import cpu, reference
from xtc_jax.kernels.packed_matmul.native import build
from xtc_jax.quantize import named_rules

LEVELS = {1: [-1, 1], 2: [-1, 0, 1]}
CONFIG = BertConfig(
    vocab_size=32,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=128,
    max_position_embeddings=16,
)
native = pytest.mark.native
HERE = cpu.instruction_sets()
isas = pytest.mark.parametrize("isa", HERE)
sums = jax.jit(functools.partial(cpu.matmul, dtype=jnp.int32), static_argnames=("isa", "threads"))
ONE = jnp.ones(1, jnp.float32)


def weight(values, bits, scale=ONE, isa=""):
    """The packed tensor of some integers, and that laid out for the library."""
    packed = jax.jit(pack_tensor, static_argnums=2)(jnp.asarray(values, jnp.int8), jnp.asarray(scale, jnp.float32), bits)
    return packed, cpu.prepare(packed, "cpu", isa)


def check(rng, bits, m, k, n, isa, threads=0):
    values = rng.choice(LEVELS[bits], size=(n, k))
    _, prepared = weight(values, bits, isa=isa)
    for x in [rng.integers(-128, 128, (m, k)), np.full((m, k), -128), np.full((m, k), 127)]:
        found = sums(jnp.asarray(x, jnp.int8), prepared, ONE, isa=isa, threads=threads)
        np.testing.assert_array_equal(found, x @ values.T)


@native
@isas
@pytest.mark.parametrize("bits", LEVELS)
@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (0, 5, 4), (3, 0, 7), (5, 384, 130), (98, 37, 65), (100, 515, 129)])
def test_a_weight_that_is_not_packed_yet_gives_the_same_sums(rng, bits, m, k, n, isa):
    values = rng.choice([-1, 1] if bits == 1 else [-1, 0, 1, 2], size=(n, k)).astype(np.int8)
    x = rng.integers(-128, 128, (m, k)).astype(np.int8)
    found = jax.jit(cpu.fresh_matmul, static_argnums=(2, 3))(x, values, bits, isa)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, x.astype(int) @ values.T.astype(int))


@native
def test_a_weight_that_is_not_packed_yet_must_have_1_or_2_bits_and_sums_that_fit():
    x = jnp.ones((2, 3), jnp.int8)
    with pytest.raises(ValueError, match="4 bits and K = 3: there is a product of 1 or 2 bits and K below 131072"):
        cpu.fresh_matmul(x, jnp.ones((4, 3), jnp.int8), 4)
    with pytest.raises(ValueError, match="1 bits and K = 131072"):
        cpu.fresh_matmul(jnp.ones((1, 2**17), jnp.int8), jnp.ones((1, 2**17), jnp.int8), 1)


@native
def test_batches_of_any_rank_are_multiplied():
    x, w = jnp.ones((2, 3, 5), jnp.int8), jnp.ones((4, 5), jnp.int8)
    np.testing.assert_array_equal(cpu.fresh_matmul(x, w, 1), np.full((2, 3, 4), 5))


@native
@isas
@pytest.mark.parametrize("bits", LEVELS)
@pytest.mark.parametrize(("m", "k", "n"), [
    (1, 1, 1), (0, 5, 4), (3, 0, 7), (13, 130, 300),
    (5, 384, 130), (100, 515, 129), (7, 1001, 200), (12, 768, 128), (98, 37, 65),
])  # fmt: skip
def test_sums_are_those_of_an_int64_matmul_bit_for_bit_at_every_instruction_set(rng, isa, bits, m, k, n):
    check(rng, bits, m, k, n, isa)


@native
@isas
@settings(max_examples=5, deadline=None)
@given(bits=st.sampled_from([1, 2]), m=st.integers(0, 30), k=st.integers(0, 90), n=st.integers(1, 150), seed=st.integers(0, 99))
def test_sums_of_any_shape_are_those_of_an_int64_matmul_bit_for_bit(isa, bits, m, k, n, seed):
    check(np.random.default_rng(seed), bits, m, k, n, isa)


@native
@isas
@pytest.mark.parametrize("bits", LEVELS)
@pytest.mark.parametrize("level", [0, -1])
def test_the_longest_sums_of_extreme_values_do_not_overflow(isa, bits, level):
    value, k = LEVELS[bits][level], 4099
    _, prepared = weight(np.full((3, k), value), bits, isa=isa)
    np.testing.assert_array_equal(
        sums(jnp.full((7, k), -128, jnp.int8), prepared, ONE, isa=isa), np.full((7, 3), -128 * value * k)
    )


@native
@isas
@pytest.mark.parametrize("k", [5, 37, 384])
def test_tokens_are_quantized_as_xla_compiles_the_reference_to_the_bit(rng, isa, k):
    x = np.float32(rng.normal(size=(2000, k)) * np.exp(3 * rng.normal(size=(2000, 1))))
    x[0], x[1, 3], x[2, 3] = 0, np.inf, -np.inf
    x[4] *= np.float32(1e-38)  # subnormal: XLA takes them for 0
    x[5], x[6, :2] = np.float32(2e-38) * x[7], np.float32(1e-39)
    codes, scale = jax.jit(reference.quantize_tokens)(x)
    _, identity = weight(np.eye(k), 2)
    options = cpu.call_options([identity], isa) | {"bits": np.int64(2)}
    found, found_scale = jax.jit(lambda x: cpu._floats(x, identity, options))(x)
    np.testing.assert_array_equal(found_scale, scale)
    np.testing.assert_array_equal(found, codes)


@native
@isas
def test_a_token_with_a_nan_has_scale_nan_and_code_0_there(isa):
    # XLA's maximum drops a NaN now and then, by where it lies among the vectors; that is no reference.
    x = np.ones((1, 40), np.float32)
    x[0, 7] = np.nan
    options = cpu.call_options([], isa) | {"bits": np.int64(2)}
    codes, scale = cpu._floats(jnp.asarray(x), weight(np.eye(40), 2)[1], options)
    assert np.isnan(scale).all()
    np.testing.assert_array_equal(codes, np.where(np.isnan(x), 0, 1))


@native
@pytest.mark.parametrize("bits", LEVELS)
def test_neither_the_number_of_threads_nor_the_instruction_set_changes_a_bit_of_the_result(rng, bits):
    values = rng.choice(LEVELS[bits], size=(777, 301))
    x = jnp.asarray(rng.normal(size=(210, 301)), jnp.float32)
    run = jax.jit(functools.partial(cpu.matmul, activation="gelu"), static_argnames=("isa", "threads"))
    one = run(x, weight(values, bits)[1], threads=1)
    for isa in HERE:
        _, prepared = weight(values, bits, isa=isa)
        for threads in (1, 2, 3, 8):
            np.testing.assert_array_equal(run(x, prepared, isa=isa, threads=threads), one)


@native
@pytest.mark.parametrize("bits", LEVELS)
@pytest.mark.parametrize("activation", ["", "gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("groups", [1, 65])
def test_the_result_is_that_of_the_reference_within_a_rounding_of_float32(rng, bits, activation, groups):
    packed, prepared = weight(rng.choice(LEVELS[bits], size=(65, 300)), bits, rng.uniform(0.5, 2, groups) / 100)
    x, bias = jnp.asarray(rng.normal(size=(2, 5, 300)), jnp.float32), jnp.asarray(rng.normal(size=65), jnp.float32)
    expected = jax.jit(packed_matmul, static_argnames="activation")(x, packed, bias=bias, activation=activation)
    found = jax.jit(packed_matmul, static_argnames="activation")(x, prepared, bias=bias, activation=activation)
    np.testing.assert_allclose(found, expected, rtol=3e-7, atol=3e-7)


@native
@isas
@pytest.mark.parametrize(("activation", "bits", "groups"), [("", 1, 1), ("gelu", 1, 1), ("gelu", 2, 65), ("relu", 2, 1)])
def test_a_linear_equals_that_of_xla_to_the_bit_at_the_optimization_that_users_have(rng, isa, activation, bits, groups):
    packed, prepared = weight(rng.choice(LEVELS[bits], size=(65, 300)), bits, rng.uniform(0.5, 2, groups) / 100, isa)
    x, bias = jnp.asarray(3 * rng.normal(size=(40, 300)), jnp.float32), jnp.asarray(rng.normal(size=65), jnp.float32)
    xla = jax.jit(functools.partial(packed_matmul, activation=activation)).lower(x, prepare(packed, "cpu", "xla"), bias=bias)
    expected = xla.compile({"xla_backend_optimization_level": 3})(x, prepare(packed, "cpu", "xla"), bias=bias)
    found = jax.jit(functools.partial(cpu.matmul, activation=activation, isa=isa))(x, prepared, bias=bias)
    np.testing.assert_array_equal(found, expected)


@native
def test_base_3_and_planes_are_laid_out_the_same(rng):
    packed, prepared = weight(rng.choice(LEVELS[2], size=(65, 301)), 2)
    again = cpu.prepare(packed.stored(BASE3), "cpu")
    np.testing.assert_array_equal(again.codes, prepared.codes)
    assert again.layout == prepared.layout == cpu.LAYOUT


@native
@pytest.mark.parametrize(("bits", "size"), [(1, 6 * 192 * 64), (2, 12 * 192 * 64)])
def test_a_weight_of_768_by_768_takes_1_or_2_bits_each(rng, bits, size):
    assert weight(rng.choice(LEVELS[bits], size=(768, 768)), bits)[1].codes.size == size == 768 * 768 * bits // 8


@native
def test_vmap_calls_once_for_each_batch(rng):
    values = rng.choice(LEVELS[1], size=(65, 40))
    x = rng.integers(-128, 128, (3, 4, 40))
    found = jax.vmap(lambda x: integer_matmul(x, weight(values, 1)[1]))(jnp.asarray(x, jnp.int8))
    np.testing.assert_array_equal(found, x @ values.T)


@native
def test_a_gradient_is_refused(rng):
    _, prepared = weight(rng.choice(LEVELS[1], size=(5, 8)), 1)
    with pytest.raises(ValueError, match="cannot be differentiated"):
        jax.grad(lambda x: packed_matmul(x, prepared).sum())(jnp.ones((2, 8)))


@pytest.mark.slow
@native
@pytest.mark.parametrize("bits", LEVELS)
def test_the_logits_of_a_whole_model_are_those_of_xla(rng, bits):
    packed = pack(init(CONFIG, jax.random.key(0)), named_rules("paper-50x", bits))
    ids = jnp.asarray(rng.integers(0, 32, (4, 16)), jnp.int32)
    run = jax.jit(lambda params: apply(CONFIG, params, ids, 0 * ids, 0 * ids + 1).logits)
    ours, xla = ready(packed, backend="native_cpu"), ready(packed, backend="xla")
    assert ours["encoder"]["layer_1"]["output"]["dense"]["weight"].layout in cpu.LAYOUTS
    assert xla["encoder"]["layer_1"]["output"]["dense"]["weight"].layout == "int8"
    # A float that differs in its last bit may cross the edge of the next quantizer, a step of 1/128 of a token's range.
    np.testing.assert_allclose(run(ours), run(xla), rtol=0, atol=1e-4)


@native
@pytest.mark.parametrize("isa", HERE)
def test_a_cpu_with_fast_instructions_multiplies_packed_bits_and_says_why(rng, monkeypatch, isa):
    packed, _ = weight(rng.choice(LEVELS[1], size=(5, 8)), 1)
    monkeypatch.setenv(cpu.VARIABLE, isa)
    choice = choose(packed, "cpu")
    if isa == "portable":
        why = "int8, unpacked once; the native library has no fast instructions for this processor"
        assert (choice.backend, choice.why) == ("xla", why)
    else:
        why = f"multiplies the packed bits with {isa}: faster than XLA's int8 (docs/kernels.md, section 6)"
        assert (choice.backend, choice.why) == ("native_cpu", why)
    assert choose(packed, "cpu", "native_cpu").why == "as asked"
    assert prepare(packed, "cpu", "native_cpu").layout in cpu.LAYOUTS


@native
def test_a_weight_of_four_bits_goes_to_xla_and_the_reason_is_told(monkeypatch):
    monkeypatch.setenv(cpu.VARIABLE, HERE[-1])
    choice = choose(pack_tensor(jnp.ones((8, 8)), ONE, 4), "cpu")
    assert choice.backend == "xla"
    assert HERE[-1] == "portable" or "native_cpu: codes of 1 or 2 bits in a layout of files, not 4" in choice.why


@native
def test_an_instruction_set_that_is_not_there_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv(cpu.VARIABLE, "amx")
    with pytest.raises(UserError, match=r"XTC_CPU_ISA=amx: this processor has portable.*; use one of them"):
        cpu.instruction_set()


@native
@pytest.mark.parametrize(("changes", "device", "complaint"), [
    ({}, "TPU v5 lite", "for a CPU, not TPU v5 lite"),
    ({"zero": np.zeros(1, np.float32)}, "cpu", "zero points"),
    ({"bits": 4}, "cpu", "1 or 2 bits in a layout of files, not 4"),
    ({"layout": "int8"}, "cpu", "1 or 2 bits in a layout of files, not 1 in int8"),
    ({"shape": (1, 2**17)}, "cpu", "K = 131072: sums could leave int32"),
])  # fmt: skip
def test_a_weight_that_the_library_does_not_multiply_is_refused(changes, device, complaint):
    packed, _ = weight(np.ones((1, 8)), 1)
    with pytest.raises(NotImplementedError, match=complaint):
        cpu.prepare(dataclasses.replace(packed, **changes), device)


@native
@pytest.mark.parametrize(
    "changes", [{"shape": (200, 8)}, {"bits": 2, "shape": (65, 8)}, {"codes": np.zeros((1, 1, 64), np.uint8)}]
)
def test_codes_that_are_not_those_of_the_shape_are_refused(changes):
    prepared = dataclasses.replace(weight(np.ones((5, 8)), 1)[1], **changes)
    with pytest.raises(ValueError, match="are not those of a weight"):
        cpu.matmul(jnp.ones((2, 8)), prepared)


@pytest.mark.skipif(cpu.LOOK_UP not in HERE, reason="no look-ups on this processor")
def test_weights_that_are_laid_out_for_another_instruction_set_than_the_one_asked_for_are_refused():
    words, groups = (weight(np.ones((128, 16)), 1, isa=isa)[1] for isa in (cpu.LOOK_UP, "avx2"))
    assert (words.layout, groups.layout, words.codes.size) == (cpu.WORDS, cpu.LAYOUT, 128 * 16 // 8)
    assert words.codes.shape == groups.codes.shape
    for each, isa in [(words, "avx2"), (groups, cpu.LOOK_UP)]:
        with pytest.raises(ValueError, match=f"not laid out for {isa}: prepare them for the one that multiplies"):
            cpu.matmul(jnp.ones((2, 16)), each, isa=isa)
    assert cpu.call_options([words])["isa"] == cpu.ISAS.index(cpu.LOOK_UP)
    assert cpu.call_options([groups])["isa"] == cpu.ISAS.index("avx512vnni")
    with pytest.raises(ValueError, match="not laid out for one instruction set"):
        cpu.call_options([words, groups])


@native
def test_the_library_itself_refuses_codes_that_are_too_short():
    prepared = weight(np.ones((5, 8)), 1)[1]
    call = jax.ffi.ffi_call("xtc_native_integers", jax.ShapeDtypeStruct((2, 200), jnp.int32))
    with pytest.raises(jax.errors.JaxRuntimeError, match="codes are not those of a weight of this shape"):
        call(
            jnp.ones((2, 8), jnp.int8), prepared.codes, bits=np.int64(1), isa=np.int64(0), threads=np.int64(0)
        ).block_until_ready()


def test_a_library_for_a_newer_or_another_interface_is_refused_before_it_is_registered():
    assert cpu.mismatch((0, 3), (0, 3)) == cpu.mismatch((0, 3), (0, 5)) == ""
    expected = "the native library is for FFI 0.5, jaxlib has 0.3; build it again"
    assert cpu.mismatch((0, 5), (0, 3)) == expected
    assert "build it again" in cpu.mismatch((0, 3), (1, 3))
    assert "build it again" in cpu.mismatch((0, 3), (0, 0))


def test_a_library_that_is_not_there_or_is_damaged_is_told_in_words(tmp_path):
    assert cpu.library(tmp_path / "none.so").startswith("the native library is not built (python -m")
    (tmp_path / "damaged.so").write_bytes(b"not a library")
    assert cpu.library(tmp_path / "damaged.so").startswith("the native library cannot be loaded, build it again: ")


@native
def test_a_library_of_older_sources_which_lacks_a_call_is_told_in_words(monkeypatch):
    monkeypatch.setitem(cpu._TARGETS, "xtc_native_later", "xtc_later")
    expected = r"the native library cannot be loaded, build it again: .*undefined symbol: xtc_later"
    assert re.match(expected, cpu.library.__wrapped__(build.HERE / build.LIBRARY))


def test_without_a_compiler_the_build_says_so_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RuntimeError, match=r"^no C\+\+ compiler \(g\+\+, clang\+\+, c\+\+ or \$CXX\)$"):
        build.build(tmp_path)
    assert list(tmp_path.iterdir()) == []


def random_calls(compiler, flags, runner, calls, tmp_path):
    """What the driver of random calls says, built by a compiler and run by a runner."""
    driver = tmp_path / "driver"
    sources = [str(build.HERE / each) for each in ("check.cpp", *build.SOURCES) if each != "handlers.cpp"]
    subprocess.run([compiler, "-std=c++17", "-ffp-contract=off", "-pthread", *flags, *sources, "-o", str(driver)], check=True)
    done = subprocess.run([*runner, str(driver), str(calls)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_ten_thousand_random_calls_touch_no_byte_that_is_not_theirs(tmp_path):
    # AVX-VNNI too: where the processor lacks it, two instructions stand for the one.
    emulated = [] if "avxvnni" in HERE else ["-DXTC_EMULATE_AVXVNNI"]
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *emulated]
    assert random_calls("g++", flags, [], 10_000, tmp_path) == "10000 calls, all equal\n"


@pytest.mark.arm
@pytest.mark.parametrize("processor", ["max", "cortex-a72"])  # with sdot, and without
def test_random_calls_on_an_emulated_arm_processor_are_all_equal(tmp_path, processor):
    runner = ["qemu-aarch64-static", "-cpu", processor]
    assert random_calls("aarch64-linux-gnu-g++", ["-O3", "-static"], runner, 500, tmp_path) == "500 calls, all equal\n"
