"""The TPU kernels without a TPU: compile them, count bundles and bytes, and choose tiles.

    python benchmarks/tpu_kernels.py bundles              # all widths at (4096, 768, 3072)
    python benchmarks/tpu_kernels.py shapes --m 8 4096    # compile every layer of three models at these M
    python benchmarks/tpu_kernels.py tune                 # write xtc_jax/kernels/packed_matmul/tuning/tpu_*.json

One JSON object a line. Needs libtpu. The time of a call is a prediction, never a measurement: for each step of the grid the
longest of three, its bundles at the clock rate, its multiply-adds at the peak of the MXU, and its copies from and to
HBM at full bandwidth; nothing is copied beside the first step, whose operands come before it.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from xtc_jax import devices
from xtc_jax.aot import libtpu as aot
from xtc_jax.devices import Chip
from xtc_jax.kernels import pack_tensor
from xtc_jax.kernels.packed_matmul import mosaic_tpu, tpu_tiles
from xtc_jax.kernels.packed_matmul.tpu_tiles import Blocks, Shape

GENERATIONS = ("v5e", "v5p", "v6e")
LAYERS = [(h, n, k) for h in (768, 1024, 384) for n, k in ((h, h), (h, 4 * h), (4 * h, h))]
"""(hidden size, in, out) of every Linear of BERT-base, BERT-large and MiniLM."""
TUNED_M = (8, 32, 128, 512, 4096, 16384)
TUNED_BITS = (2, 1, 8)
TABLES = Path(tpu_tiles.__file__).with_name("tuning")
COLUMNS = ("bits", "k", "n", "m", "block_m", "block_n", "bundles", "hbm_bytes", "predicted_us", "roofline_us")
Struct = jax.ShapeDtypeStruct


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A compiled tile and what it promises for one M."""

    blocks: Blocks
    bundles: int
    hbm_bytes: int
    seconds: float


def structs(kind: str, shape: Shape) -> tuple[Any, tuple[Any, ...]]:
    """The call of the kernel with a bias, and what it takes: shapes only."""
    x, scale, bias = Struct((shape.m, shape.k), shape.x), Struct((1,), jnp.float32), Struct((shape.n,), jnp.float32)
    if shape.bits == 16:
        call = lambda x, w, s, b, blocks: mosaic_tpu.matmul_bfloat16(x, w, s, b, kind, dtype=shape.out, blocks=blocks)  # noqa: E731
        return call, (x, Struct((shape.k, shape.n), jnp.bfloat16), scale, bias)
    integers = Struct((shape.n, shape.k), jnp.int8)
    weights = jax.eval_shape(lambda v, s: mosaic_tpu.prepare(pack_tensor(v, s, shape.bits), kind), integers, scale)
    return (lambda x, w, b, blocks: mosaic_tpu.matmul(x, w, None, b, dtype=shape.out, blocks=blocks)), (x, weights, bias)


def compiled(compiler: aot.Compiler, generation: str, shape: Shape, blocks: Blocks) -> aot.Compiled:
    """The program of one call."""
    call, arguments = structs(compiler.device(generation).device_kind, shape)
    return compiler.compile(generation, lambda *a: call(*a, blocks), *arguments)


def grid(shape: Shape, blocks: Blocks) -> tuple[int, int]:
    """Steps over M and over N."""
    return -(-shape.m // blocks.m), -(-shape.n // blocks.n)


def traffic(shape: Shape, blocks: Blocks) -> tuple[int, int, int]:
    """Bytes of one block of x, of the weight, and of the result."""
    x = blocks.m * shape.k * shape.x.itemsize
    return x, shape.k * blocks.n * shape.bits // 8, blocks.m * blocks.n * shape.out.itemsize


def predict(chip: Chip, shape: Shape, blocks: Blocks, bundles: aot.Bundles) -> Candidate:
    """Bundles, HBM bytes and seconds of a whole call."""
    rows, columns = grid(shape, blocks)
    x, w, out = traffic(shape, blocks)
    read = rows * x + w * (columns if columns == 1 else rows * columns)
    bandwidth = chip.bandwidth / chip.cores  # a core has its share, used or not
    work = max(bundles.step / chip.clock, 2 * blocks.m * shape.k * blocks.n / peak(chip, shape) * chip.cores)
    copies = ((w if columns > 1 else 0) + out) / bandwidth
    first = bundles.first / chip.clock  # tokens are quantized once for each row of the grid, or weights unpacked once
    each = first if columns > 1 else 0
    steps = (rows - 1) * max(work + each, copies + x / bandwidth) + rows * (columns - 1) * max(work, copies)
    seconds = (x + w + out) / bandwidth + work + first + steps / min(chip.cores, max(rows, columns))
    return Candidate(blocks, bundles.executed(rows * columns, rows if columns > 1 else 1), read + rows * columns * out, seconds)


def peak(chip: Chip, shape: Shape) -> float:
    """Operations per second of the MXU at the type it multiplies."""
    return chip.operations * (0.5 if chip.int8 and shape.bits == 16 else 1)


def roofline(chip: Chip, shape: Shape) -> float:
    """Seconds of a call that reads and writes everything once at full bandwidth, or multiplies at the peak."""
    size = shape.m * shape.k * shape.x.itemsize + shape.k * shape.n * shape.bits // 8 + shape.m * shape.n * shape.out.itemsize
    return max(size / chip.bandwidth, 2 * shape.m * shape.k * shape.n / peak(chip, shape))


def tiles(chip: Chip, shape: Shape) -> Iterator[Blocks]:
    """What is worth compiling for one M: few rows whole, many in blocks of 256 or 512, N in up to eight blocks."""
    for m in {min(shape.m, rows) for rows in ((128, 256, 512) if shape.m == 512 else (256, 512))}:
        for parts in (1, 2, 4, 8) if m <= 32 else (1, 2, 4):
            blocks = Blocks(m, tpu_tiles.padded(-(-shape.n // parts)))
            if blocks.n >= 256 and m * shape.k * blocks.n <= tpu_tiles.LARGEST_STEP and tpu_tiles.fits(chip, shape, blocks):
                yield blocks


class Counter:
    """Bundles of kernels, each compiled once: a step does not depend on how many of them there are."""

    def __init__(self, compiler: aot.Compiler, generation: str) -> None:
        self.compiler, self.generation = compiler, generation
        self.chip = devices.chip(compiler.device(generation).device_kind)
        self._seen: dict[tuple[Any, ...], aot.Bundles] = {}

    def __call__(self, shape: Shape, blocks: Blocks) -> Candidate:
        """The candidate for ``shape``; compiled with four blocks of M where there are more."""
        rows = min(grid(shape, blocks)[0], 4)
        small = dataclasses.replace(shape, m=rows * blocks.m)
        if (small, blocks) not in self._seen:
            self._seen[small, blocks] = compiled(self.compiler, self.generation, small, blocks).part("packed_matmul")
        return predict(self.chip, shape, blocks, self._seen[small, blocks])


def tune(generations: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Write a table for each generation: 2 bits try every tile, the other widths the two that were best there."""
    with aot.Compiler() as compiler:
        for generation in generations:
            count, rows = Counter(compiler, generation), []
            for _, k, n in LAYERS:
                best: dict[int, list[Candidate]] = {}
                for bits in TUNED_BITS:
                    for m in TUNED_M:
                        shape = Shape(m, k, n, bits, jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.bfloat16))
                        tried = tiles(count.chip, shape) if bits == TUNED_BITS[0] else [c.blocks for c in best[m]]
                        ranked = sorted((count(shape, blocks) for blocks in tried), key=lambda c: c.seconds)
                        best.setdefault(m, ranked[:2])
                        rows.append(row(count.chip, shape, cheapest(ranked)))
                        yield {"generation": generation} | dict(zip(COLUMNS, rows[-1], strict=True))
            write(generation, rows)


def cheapest(ranked: list[Candidate]) -> Candidate:
    """The fewest bundles within 3 % of the best time: the prediction is no better, and an activation may come on top."""
    return min((c for c in ranked if c.seconds <= 1.03 * ranked[0].seconds), key=lambda c: c.bundles)


def row(chip: Chip, shape: Shape, c: Candidate) -> list[float]:
    """A row of a table."""
    times = [round(seconds * 1e6, 2) for seconds in (c.seconds, roofline(chip, shape))]
    return [shape.bits, shape.k, shape.n, shape.m, c.blocks.m, c.blocks.n, c.bundles, c.hbm_bytes, *times]


def write(generation: str, rows: list[list[float]]) -> None:
    """One table, a row a line."""
    about = {
        "device": generation,
        "command": f"python benchmarks/tpu_kernels.py tune --generations {generation}",
        "versions": {"jax": jax.__version__, "libtpu": version("libtpu")},
        "dtypes": "x and result bfloat16; one scale, a bias, no activation",
        "columns": list(COLUMNS),
    }
    lines = ",\n".join(f"    {json.dumps(values)}" for values in sorted(rows))
    text = json.dumps(about, indent=2)[:-2] + f',\n  "rows": [\n{lines}\n  ]\n}}\n'
    (TABLES / f"tpu_{generation}.json").write_text(text)


def bundles(generations: Iterable[str], m: int, dtype: str, widths: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Acceptance: the same kernel at all widths, each with the tile it would use."""
    with aot.Compiler() as compiler:
        for generation in generations:
            chip = devices.chip(compiler.device(generation).device_kind)
            for bits in widths:
                shape = Shape(m, 768, 3072, bits, jnp.dtype(dtype), jnp.dtype(dtype))
                blocks = tpu_tiles.choose(chip, dataclasses.replace(shape, bits=min(bits, 8)))
                program = compiled(compiler, generation, shape, blocks)
                kernel = program.part("packed_matmul")
                values = row(chip, shape, predict(chip, shape, blocks, kernel))
                extra = {"arguments": program.arguments, "temporaries": program.temporaries, "mxu": sorted(kernel.mxu)}
                yield {"generation": generation, "dtype": dtype} | dict(zip(COLUMNS, values, strict=True)) | extra


def shapes(generations: Iterable[str], ms: Iterable[int], widths: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Compile every layer, as chosen; an exception says which does not."""
    ms = tuple(ms)
    with aot.Compiler(bundles=False) as compiler:
        for generation in generations:
            chip = devices.chip(compiler.device(generation).device_kind)
            for _, k, n in LAYERS:
                for m in ms:
                    for bits in widths:
                        shape = Shape(m, k, n, bits, jnp.dtype(jnp.float32), jnp.dtype(jnp.float32))
                        blocks = tpu_tiles.choose(chip, shape)
                        size = compiled(compiler, generation, shape, blocks).arguments
                        yield {"generation": generation, "bits": bits, "m": m, "k": k, "n": n, "arguments": size}


def main() -> None:
    """Parse and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("bundles", "shapes", "tune"))
    parser.add_argument("--generations", nargs="+", default=GENERATIONS, choices=aot.TOPOLOGIES)
    parser.add_argument("--m", nargs="+", type=int)
    parser.add_argument("--bits", nargs="+", type=int)
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    if given.command == "bundles":
        lines = bundles(given.generations, (given.m or [4096])[0], given.dtype, given.bits or (2, 1, 8, 16))
    elif given.command == "shapes":
        lines = shapes(given.generations, given.m or TUNED_M, given.bits or (2, 1))
    else:
        lines = tune(given.generations)
    for line in lines:
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
