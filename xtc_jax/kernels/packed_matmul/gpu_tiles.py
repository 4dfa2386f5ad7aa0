"""The tile that a Hopper GPU computes at a time, what it takes of an SM, and which to use.

The kernels and the dispatcher both import this file, so neither imports the other.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from xtc_jax.kernels.layout import BLOCK

ROWS, TOKENS, STAGES = (64, 128), (8, 16, 32, 64, 128, 256), (2, 3, 4, 6)
WARPGROUP = 64
"""Rows that one warpgroup (128 threads) multiplies: what the left operand of wgmma has."""
LOADER_REGISTERS = 40
"""Registers of each thread of the warpgroup that only issues copies."""
SHARED_MEMORY, REGISTERS, SMS = 227 * 1024, 64 * 1024, 132
"""Of an SM of H100 and H200: bytes, and registers of 32 bits. And how many SMs there are."""


@dataclass(frozen=True)
class Blocks:
    """The tile that an SM computes at a time; what a tuner chooses.

    Attributes:
      rows: of the weight, 64 or 128: one or two warpgroups that multiply.
      tokens: 8 to 256, a power of two.
      stages: blocks of 256 codes in flight, 2 to 6.

    Raises:
      ValueError: others.
    """

    rows: int = 128
    tokens: int = 128
    stages: int = 4

    def __post_init__(self) -> None:
        if self.rows not in ROWS or self.tokens not in TOKENS or self.stages not in STAGES:
            raise ValueError(f"{self}: rows are of {ROWS}, tokens of {TOKENS}, stages of {STAGES}")


def staging(blocks: Blocks) -> tuple[int, int, int, int]:
    """Shape of the way out: for each warpgroup one or two pieces ``(tokens, rows)`` of the result, in shared memory."""
    piece = min(64, blocks.tokens)
    return blocks.rows // WARPGROUP, min(2, blocks.tokens // piece), piece, WARPGROUP


def shared_memory(blocks: Blocks, bits: int, dtype: Any) -> int:
    """Bytes of shared memory: the ring of packed weights and x with two barriers a stage, and the way out."""
    stage = blocks.rows * BLOCK * bits // 8 + blocks.tokens * BLOCK + 16
    return blocks.stages * stage + math.prod(staging(blocks)) * jnp.dtype(dtype).itemsize


def registers(blocks: Blocks) -> int:
    """Registers of a thread that multiplies: its sums, its codes, packed and not, and an allowance of 48 for the rest."""
    threads = 128
    return (WARPGROUP * blocks.tokens + WARPGROUP * BLOCK // 4 + WARPGROUP * BLOCK // 16) // threads + 48


def fits(blocks: Blocks, bits: int, dtype: Any) -> bool:
    """Whether an SM has the shared memory and the registers."""
    share = min(255, (REGISTERS // 128 - LOADER_REGISTERS) * WARPGROUP // blocks.rows)
    return shared_memory(blocks, bits, dtype) <= SHARED_MEMORY and registers(blocks) <= share


def candidates(m: int, bits: int, dtype: Any) -> list[Blocks]:
    """What a tuner should try for ``m`` tokens: the tiles that fit, none of twice as many tokens or more."""
    every = (Blocks(rows, tokens, stages) for rows in ROWS for tokens in TOKENS for stages in STAGES)
    return [blocks for blocks in every if blocks.tokens < max(2 * m, 16) and fits(blocks, bits, dtype)]


def default_blocks(m: int, n: int, bits: int, dtype: Any) -> Blocks:
    """The fewest rounds of tiles over the SMs, if a tile costs its products and 8,192 more to start and end: a guess."""

    def cost(blocks: Blocks) -> tuple[int, int]:
        rounds = math.ceil(math.ceil(m / blocks.tokens) * math.ceil(n / blocks.rows) / SMS)
        return rounds * (blocks.rows * blocks.tokens + 8192), -blocks.stages

    return min(candidates(m, bits, dtype), key=cost)
