"""Compiled for TPUs that are not there: what the kernels take, in bytes and in VLIW bundles."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xtc_jax.aot.libtpu import Bundles, count_bundles

ROOT = Path(__file__).resolve().parents[2]
DUMP = """\
= control target key start
LB: loop body
     0   :  { %1 = inlined_call_operand.hbm }
   0x1   :  { %2 = vsyncpa [#allocation7], 0 } /* Start region 1 */
   0x2 LB: > { %s1 = sadd.s32 1, %s0 } /* Start region 122 */
   0x3   : > { %273 = sbr.rel (%p1) target = $region36 }
   0x4   : > { %s275 = sand.u32 1, %s1 } /* Start region 35 */
window_bounds: (6, 4) */ }
   0x5   : > { %360 = sbr.rel (%p2) target = $region56 }
   0x6   : > { %v1 = vld [vmem:[%s1]] } /* Start region 55 */
   0x7   : > { %v2 = vmul.f32 %v1, %v1 } /* End region 55 */
   0x8 PF: > { %v3 = vmatmul.mubr.s8.gmra.mxu0 %v2 }
   0x9   : > { %v4 = vmatmul.msk.s8.mxu1 %v2 } /* End region 35 */
   0xa PF: > { %25 = sbr.rel (!%p3) target = $region122 }
   0xb   :  { %s9 = smov 0 }
"""


def test_bundles_of_a_step_and_of_its_condition_are_read_off_a_dump():
    # Ten of twelve bundles are the loop, 0x2 to 0xa, of which 0x6 and 0x7 lie behind a condition beside its branch.
    assert count_bundles("kernel", DUMP) == Bundles("kernel", total=12, step=6, first=3, mxu=frozenset({"s8"}))


def test_bundles_run_by_a_grid_are_prologue_steps_and_conditions():
    assert Bundles("kernel", 12, 6, 3, frozenset()).executed(steps=10, firsts=2) == 3 + 10 * 6 + 2 * 3


def test_a_program_without_a_grid_is_all_prologue():
    assert count_bundles("fusion", "     0   :  { %1 = vadd.f32 }\n   0x1   :  { %2 = vmatmul.bf16.mxu0 }\n") == Bundles(
        "fusion", 2, 0, 0, frozenset({"bf16"})
    )


def compiled(*arguments):
    """What the tool prints, line by line. It runs in a process of its own, as libtpu asks."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS")
    command = [sys.executable, "benchmarks/tpu_kernels.py", *map(str, arguments)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.libtpu
@pytest.mark.parametrize("generation", ["v5e", "v6e"])
def test_2_bits_take_the_bundles_of_int8_a_quarter_of_its_bytes_and_seven_tenths_of_the_bundles_of_bfloat16(generation):
    programs = {line["bits"]: line for line in compiled("bundles", "--generations", generation)}
    m, k, n = 4096, 768, 3072
    others = m * k * 4 + n * 4 + 512  # x, the bias, and the one scale, which takes 512 bytes
    for bits, program in programs.items():
        assert (program["m"], program["k"], program["n"]) == (m, k, n)
        assert program["arguments"] == others + k * n * bits // 8
        assert program["temporaries"] == 0
        assert program["mxu"] == (["bf16"] if bits == 16 else ["s8"])
    bundles = {bits: program["bundles"] for bits, program in programs.items()}
    assert bundles[2] <= 1.05 * bundles[8]
    assert bundles[2] <= 0.70 * bundles[16]
    assert bundles[1] <= 1.08 * bundles[8]
    assert bundles[1] <= 0.70 * bundles[16]


@pytest.mark.slow
@pytest.mark.libtpu
@pytest.mark.parametrize(
    ("generation", "bits", "m"),
    [("v5e", 1, 32), ("v5e", 2, 4096), pytest.param("v5p", 2, 4096, marks=pytest.mark.minutes), ("v6e", 2, 4096)],
)
def test_every_layer_of_three_models_compiles(generation, bits, m):
    # All six M and all widths: benchmarks/tpu_kernels.py shapes.
    lines = compiled("shapes", "--generations", generation, "--bits", bits, "--m", m)
    assert len(lines) == 9
    for line in lines:
        k = 512 if bits == 1 and line["k"] == 384 else line["k"]
        tile = min(1024, 1 << (line["n"] - 1).bit_length())  # of a vector in HBM
        bias = -(-line["n"] // tile) * tile * 4
        assert line["arguments"] == m * line["k"] * 4 + bias + 512 + k * line["n"] * bits // 8
