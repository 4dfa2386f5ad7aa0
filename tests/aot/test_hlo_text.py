"""Optimized HLO, written by hand in the forms that libtpu 0.0.42 and 0.0.50 print."""

import pytest

from xtc_jax.aot.collectives import Collective, find_collectives
from xtc_jax.aot.hlo_text import executed, parse
from xtc_jax.aot.traffic import hbm_traffic

MODULE = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[64,8]{1,0})->f32[]}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %add = f32[]{:T(128)} add(%a, %b)
}

%fused_take (param_0: f32[64,8], param_1: s32[4]) -> f32[4,8] {
  %param_0 = f32[64,8]{1,0:T(8,128)} parameter(0)
  %param_1 = s32[4]{0:T(128)} parameter(1)
  %gather = f32[4,8]{1,0:T(8,128)} gather(%param_0, %param_1), offset_dims={1}
  ROOT %double = f32[4,8]{1,0:T(8,128)} add(%gather, %gather)
}

%body (state: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %state = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)S(6)} get-tuple-element(%state), index=0
  %x = f32[4,8]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %permuted = f32[4,8]{1,0:T(8,128)} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
  ROOT %next = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) tuple(%i, %permuted)
}

%condition (state.1: (s32[], f32[4,8])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) parameter(0)
  ROOT %yes = pred[]{:T(512)} constant(true)
}

ENTRY %main (table: f32[64,8], ids: s32[4]) -> f32[4,8] {
  %table = f32[64,8]{1,0:T(8,128)} parameter(0), metadata={op_name="jit(step)/table (a \\"name\\")"}
  %ids = s32[4]{0:T(128)} parameter(1)
  %near = (f32[64,8]{1,0:T(8,128)S(1)}, f32[64,8]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%table)
  %close = f32[64,8]{1,0:T(8,128)S(1)} copy-done(%near)
  %taken = f32[4,8]{1,0:T(8,128)} fusion(%table, %ids), kind=kCustom, calls=%fused_take
  %zero = s32[]{:T(128)} constant(0)
  %begin = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) tuple(%zero, %taken)
  %loop = (s32[], f32[4,8]{1,0:T(8,128)}) while(%begin), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %last = f32[4,8]{1,0:T(8,128)} get-tuple-element(%loop), index=1
  ROOT %out = f32[4,8]{1,0:T(8,128)} negate(%last)
}
"""


def program(*lines):
    """An entry computation of these lines, with operands ``%a`` f32[16] and ``%b`` bf16[16]."""
    body = ("%a = f32[16]{0:T(128)} parameter(0)", "%b = bf16[16]{0:T(256)(128)(2,1)} parameter(1)", *lines)
    return parse("ENTRY %main (a: f32[16], b: bf16[16]) -> f32[] {\n" + "".join(f"  {line}\n" for line in body) + "}\n")


def test_instructions_have_shapes_memory_spaces_and_operands():
    main = parse(MODULE).computations["main"]
    near = main["near"]
    assert (near.opcode, near.operands) == ("copy-start", ("table",))
    assert [(each.dtype, each.dims, each.space) for each in near.results] == [
        ("f32", (64, 8), 1),
        ("f32", (64, 8), 0),
        ("u32", (), 2),
    ]
    assert [main["table"].bytes, main["ids"].bytes] == [64 * 8 * 4, 16]
    assert (main["ids"].number, main["out"].root) == (1, True)


def test_the_body_of_a_loop_runs_as_often_as_its_known_trip_count():
    times = {each.instruction.name: (each.times, each.fused) for each in executed(parse(MODULE))}
    assert times["permuted"] == (5, False)
    assert times["gather"] == (1, True)
    assert "yes" not in times  # the condition


def test_text_that_is_not_a_module_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        parse("%sum (a: f32[]) -> f32[] {\n}\n")


def test_traffic_counts_hbm_once_for_every_use_and_of_a_gathered_table_the_rows_that_are_taken():
    copied = 64 * 8 * 4  # read; what it becomes lies on the chip
    taken = 4 * 8 * 4 + 16 + 4 * 8 * 4  # rows, ids, result
    moved = 5 * 2 * 4 * 8 * 4  # the permute, every time round
    assert hbm_traffic(parse(MODULE)) == copied + taken + moved + 2 * 4 * 8 * 4


def test_an_update_in_place_writes_what_it_changes():
    module = program(
        "%i = s32[] constant(3)",
        "%row = f32[2]{0} constant({1, 2})",
        "ROOT %new = f32[16]{0:T(128)} dynamic-update-slice(%a, %row, %i)",
    )
    assert hbm_traffic(module) == 8 + 4 + 8


def test_collectives_of_one_kind_and_group_are_summed_and_one_device_alone_exchanges_nothing():
    module = program(
        "%one = f32[16]{0} all-reduce(%a), replica_groups={{0,1},{2,3}}, to_apply=%sum",
        "%two = (f32[16]{0}, bf16[16]{0}) all-reduce(%a, %b), replica_groups=[2,2]<=[4], to_apply=%sum",
        "%all = f32[16]{0} all-reduce(%a), replica_groups=mesh['data'=4,'fsdp'=1] {'data'}, to_apply=%sum",
        "ROOT %self = f32[16]{0} all-reduce(%a), replica_groups=mesh['data'=4,'fsdp'=1] {'fsdp'}, to_apply=%sum",
    )
    assert find_collectives(module, 4) == (Collective("all-reduce", 2, 2, 160), Collective("all-reduce", 4, 1, 64))


def test_an_asynchronous_collective_is_counted_once_by_its_bytes():
    module = program(
        "%ag = (f32[16]{0}, f32[64]{0}) all-gather-start(%a), replica_groups=[1,4]<=[4], dimensions={0}",
        "%gathered = f32[64]{0} all-gather-done(%ag)",
        "%ar = f32[64]{0} all-reduce-start(%gathered), replica_groups={}, to_apply=%sum",
        "%reduced = f32[64]{0} all-reduce-done(%ar)",
        "ROOT %part = f32[16]{0} reduce-scatter(%reduced), replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%sum",
    )
    assert find_collectives(module, 4) == (
        Collective("all-gather", 4, 1, 256),
        Collective("all-reduce", 4, 1, 256),
        Collective("reduce-scatter", 4, 1, 256),
    )


def test_a_collective_in_a_loop_counts_every_time():
    assert find_collectives(parse(MODULE), 2) == (Collective("collective-permute", 2, 5, 5 * 128),)


def test_a_ring_sends_twice_for_a_sum_what_it_sends_for_a_gather():
    assert Collective("all-reduce", 4, 1, 400).sent == 600
    assert Collective("all-gather", 4, 1, 400).sent == 300
    assert Collective("reduce-scatter", 4, 1, 400).sent == 300
    assert Collective("collective-permute", 4, 1, 400).sent == 400
