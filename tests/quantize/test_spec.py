"""How a config writes the quantization of one weight, and what it is at a training step."""

import re

import pytest

from xtc_jax.errors import UserError
from xtc_jax.quantize import QUANTIZERS, ActivationSpec, WeightSpec, check_spec, parse_bits, parse_spec

KNOWN = "binary, binary_centred, ternary, ternary_clipped, symmetric, asymmetric"


def refusal(text):
    with pytest.raises(UserError) as refused:
        parse_spec(text, "here")
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("1", WeightSpec(1, quantizer="binary")),
        ("2", WeightSpec(2, quantizer="ternary")),
        ("3", WeightSpec(3, quantizer="symmetric")),
        ("8", WeightSpec(8, quantizer="symmetric")),
        ("32", WeightSpec(32)),
        ("2,row", WeightSpec(2, "row", "ternary")),
        ("2,tensor", WeightSpec(2, "tensor", "ternary")),
        ("1,64", WeightSpec(1, 64, "binary")),
        ("1,binary_centred,row", WeightSpec(1, "row", "binary_centred")),
        ("row,binary_centred,1", None),
        ("2,ternary_clipped", WeightSpec(2, quantizer="ternary_clipped")),
        ("4,stochastic,asymmetric", WeightSpec(4, quantizer="asymmetric", stochastic=True)),
        ("1,a8", WeightSpec(1, quantizer="binary", activation=ActivationSpec(8))),
        ("1,a4,row", WeightSpec(1, "row", "binary", ActivationSpec(4))),
        ("1,a32", WeightSpec(1, quantizer="binary")),
        ("1,a8:tensor", WeightSpec(1, quantizer="binary", activation=ActivationSpec(8, "tensor"))),
        ("1,a8:asymmetric", WeightSpec(1, quantizer="binary", activation=ActivationSpec(8, "token", symmetric=False))),
        ("1,a8:static:asymmetric@500", WeightSpec(1, "tensor", "binary", ActivationSpec(8, "static", False, 500))),
        ("1,a8@1000", WeightSpec(1, quantizer="binary", activation=ActivationSpec(8, start=1000))),
        ("8@0>4@500>1@1000", WeightSpec(1, quantizer="binary", schedule=((0, 8), (500, 4), (1000, 1)))),
        ("4@100,asymmetric", WeightSpec(4, quantizer="asymmetric", schedule=((100, 4),))),
    ],
)
def test_a_spec_is_bits_and_then_options_in_any_order(text, spec):
    if spec is None:
        assert "neither a number of bits nor a schedule" in refusal(text)
    else:
        assert parse_spec(text, "here") == spec


def test_every_quantizer_is_offered_at_each_of_its_widths_and_the_first_of_a_width_is_its_default():
    for name, widths in QUANTIZERS.items():
        for bits in widths:
            assert parse_spec(f"{bits},{name}", "here").quantizer == name
    assert [check_spec(WeightSpec(bits), "here").quantizer for bits in range(1, 9)] == ["binary", "ternary", *6 * ["symmetric"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "here: 0 bits are not offered; use 1 to 8, or 32 for float"),
        ("9", "here: 9 bits are not offered; use 1 to 8, or 32 for float"),
        ("16,row", "here: 16 bits are not offered; use 1 to 8, or 32 for float"),
        ("", "here: '' is neither a number of bits nor a schedule such as 8@0>4@500>1@1000"),
        ("row", "here: 'row' is neither a number of bits nor a schedule such as 8@0>4@500>1@1000"),
        ("-1", "here: '-1' is neither a number of bits nor a schedule such as 8@0>4@500>1@1000"),
        ("8>4", "here: '8>4' is neither a number of bits nor a schedule such as 8@0>4@500>1@1000"),
        ("8@0>", "here: '8@0>' is neither a number of bits nor a schedule such as 8@0>4@500>1@1000"),
        ("3,ternary", "here: quantizer 'ternary' has no 3 bits; use symmetric or asymmetric"),
        ("1,asymmetric", "here: quantizer 'asymmetric' has no 1 bits; use binary or binary_centred"),
        ("1,a5", "here: activations of 5 bits are not offered; use 8, 4 or 32 (off)"),
        ("1,a1", "here: activations of 1 bits are not offered; use 8, 4 or 32 (off)"),
        ("1,a8:batch", "here: unknown activation range 'batch'; use one of token, tensor, static"),
        ("32,a8", "here: activations are quantized only where the weight is"),
        ("4@0>8@100", "here: the schedule goes from 4@0 to 8@100; steps must rise and bits fall"),
        ("8@0>8@100", "here: the schedule goes from 8@0 to 8@100; steps must rise and bits fall"),
        ("8@100>4@100", "here: the schedule goes from 8@100 to 4@100; steps must rise and bits fall"),
        ("8@0>32@5", "here: the schedule goes from 8@0 to 32@5; steps must rise and bits fall"),
        ("32@0>8@5", "here: 32 bits are not offered; use 1 to 8"),
        ("1,stochastic", "here: stochastic rounding is of 3 to 8 bits; 1 bits do not round"),
        ("2@5,stochastic", "here: stochastic rounding is of 3 to 8 bits; 2 bits do not round"),
        ("9@0>8@5", "here: 9 bits are not offered; use 1 to 8"),
    ],
)
def test_a_spec_that_cannot_be_is_refused_with_what_can(text, message):
    assert refusal(text) == message


@pytest.mark.parametrize(
    "option", ["column", "", "-4", "1.5", "a", "a8:", "a8:static:", "a8@", "a8:asymmetric:static", "BINARY"]
)
def test_an_unknown_option_is_refused_with_all_that_are_known(option):
    known = f"tensor, row, SIZE, stochastic, aBITS[:RANGE][:asymmetric][@STEP], {KNOWN}"
    assert refusal(f"1,{option}") == f"here: unknown option {option!r}; use {known}"


def test_a_spec_from_a_config_is_checked_alike():
    for spec, message in (
        (WeightSpec(1, quantizer="twn"), f"there: unknown quantizer 'twn'; use one of {KNOWN}"),
        (WeightSpec(1, "column"), "there: granularity 'column'; use tensor, row or the size of a group"),
        (WeightSpec(1, schedule=((0, 8), (10, 2))), "there: the schedule ends at 2 bits, not at 1"),
        (WeightSpec(1, activation=ActivationSpec(16)), "there: activations of 16 bits are not offered; use 8, 4 or 32 (off)"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            check_spec(spec, "there")


def test_a_schedule_rounds_stochastically_as_long_as_it_rounds():
    spec = parse_spec("8@0>4@5>1@9,stochastic", "here")
    assert [spec.at(step).stochastic for step in (0, 5, 9)] == [True, True, False]


def test_bits_are_a_number_or_a_schedule():
    assert parse_bits("4", "here") == (4, ())
    assert parse_bits("8@0>4@500>1@1000", "here") == (1, ((0, 8), (500, 4), (1000, 1)))
    assert parse_bits("2@7", "here") == (2, ((7, 2),))


@pytest.mark.parametrize(
    ("step", "bits", "quantizer"),
    [
        (0, 32, ""),
        (9, 32, ""),
        (10, 8, "symmetric"),
        (499, 8, "symmetric"),
        (500, 2, "ternary"),
        (1000, 1, "binary"),
        (9**9, 1, "binary"),
    ],
)
def test_a_schedule_is_float_before_its_first_step_and_takes_the_quantizer_of_each_width(step, bits, quantizer):
    spec = parse_spec("8@10>2@500>1@1000,row", "here")
    assert spec.at(step) == WeightSpec(bits, "row", quantizer)
    assert spec.changes == (10, 500, 1000)


def test_a_quantizer_that_has_the_width_stays_on_the_way_down():
    spec = parse_spec("8@0>4@5>3@9,asymmetric,stochastic,16", "here")
    for step, bits in ((0, 8), (5, 4), (9, 3)):
        assert spec.at(step) == WeightSpec(bits, 16, "asymmetric", stochastic=True)


def test_a_named_quantizer_of_the_last_width_waits_for_it():
    spec = parse_spec("2@0>1@9,binary_centred", "here")
    assert (spec.at(0).quantizer, spec.at(9).quantizer) == ("ternary", "binary_centred")


def test_a_schedule_without_a_named_quantizer_need_not_have_been_checked():
    assert WeightSpec(1, schedule=((0, 8), (5, 1))).at(0) == WeightSpec(8, quantizer="symmetric")


def test_activations_begin_at_their_step_and_never_before_their_weight():
    spec = parse_spec("1,a8@100", "here")
    assert (spec.at(99).activation, spec.at(100).activation) == (None, ActivationSpec(8, start=100))
    assert spec.changes == (100,)
    late = parse_spec("8@50>1@200,a8@20", "here")
    assert [late.at(step).activation is not None for step in (0, 20, 49, 50, 200)] == [False, False, False, True, True]
    assert late.changes == (50, 200, 20)
    assert parse_spec("1", "here").changes == ()
