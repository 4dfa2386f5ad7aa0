"""The reader of HLO text, held against what XLA itself knows of a real program."""

import jax
import jax.numpy as jnp
import pytest

from xtc_jax.aot.hlo_text import executed, parse


def step(table, ids, weight):
    def body(carry, _):
        return jnp.tanh(carry @ weight), None

    last, _ = jax.lax.scan(body, table[ids], None, length=3)
    return last.sum(), jnp.argsort(last, axis=0)


@pytest.fixture(scope="module")
def compiled():
    return jax.jit(step).lower(jnp.ones((64, 8)), jnp.arange(4), jnp.ones((8, 8))).compile()


def opcode(instruction) -> str:
    """``HloOpcode.kGetTupleElement`` as HLO text has it: ``get-tuple-element``."""
    name = str(instruction.opcode).rpartition(".")[2].removeprefix("k")
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).strip("-")


def test_a_compiled_program_has_the_computations_names_and_opcodes_that_xla_has(compiled):
    (module,) = compiled.runtime_executable().hlo_modules()
    ours = parse(compiled.as_text()).computations
    theirs = {computation.name: computation.instructions() for computation in module.computations()}
    assert ours.keys() == theirs.keys()
    for name, instructions in theirs.items():
        assert {i.name: opcode(i) for i in instructions} == {i.name: i.opcode for i in ours[name].values()}, name
    assert sum(map(len, ours.values())) > 20


def test_the_body_of_a_scan_is_run_as_often_as_it_is_long(compiled):
    times = [each.times for each in executed(parse(compiled.as_text())) if each.instruction.opcode == "tanh"]
    assert times
    assert set(times) == {3}
