"""Which parameter gets how many bits."""

import itertools

import jax
import jax.numpy as jnp
import pytest

from xtc_jax.bert import BertConfig, init
from xtc_jax.errors import UserError
from xtc_jax.params import named_leaves
from xtc_jax.quantize import (
    ActivationSpec,
    QuantRules,
    WeightSpec,
    assign_rules,
    named_rules,
    parse_rule,
    weight_path,
    with_extra_rules,
)

CONFIG = BertConfig(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=12,
)
SIX_LINEARS = (
    "attention/self/query",
    "attention/self/key",
    "attention/self/value",
    "attention/output/dense",
    "intermediate/dense",
    "output/dense",
)
LINEARS = {f"encoder/layer_{i}/{name}/weight" for i, name in itertools.product(range(2), SIX_LINEARS)}
WORDS = "embeddings/word_embeddings/weight"
OTHER_EMBEDDINGS = {"embeddings/position_embeddings/weight", "embeddings/token_type_embeddings/weight"}
POOLER = "pooler/dense/weight"
DEFAULTS = pytest.mark.parametrize(("bits", "name"), [(1, "binary"), (2, "ternary"), (3, "symmetric"), (8, "symmetric")])
A8 = ActivationSpec(8)


@pytest.fixture(scope="module")
def bert():
    shapes = jax.eval_shape(lambda: init(CONFIG, jax.random.key(0)))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)


@DEFAULTS
def test_the_deepspeed_set_is_the_six_linears_with_8_bit_inputs_and_the_word_embeddings_by_row(bert, bits, name):
    linear, table = WeightSpec(bits, "tensor", name, A8), WeightSpec(bits, "row", name)
    assert assign_rules(bert, named_rules("deepspeed", bits)) == {**dict.fromkeys(LINEARS, linear), WORDS: table}
    assert named_rules("deepspeed", bits).rest == "float32"


@DEFAULTS
def test_the_paper_set_adds_the_other_embeddings_by_row_and_the_pooler_without_its_input(bert, bits, name):
    more = {**dict.fromkeys(OTHER_EMBEDDINGS, WeightSpec(bits, "row", name)), POOLER: WeightSpec(bits, "tensor", name)}
    assert assign_rules(bert, named_rules("paper-50x", bits)) == assign_rules(bert, named_rules("deepspeed", bits)) | more
    assert named_rules("paper-50x", bits).rest == "float16"


@pytest.mark.parametrize(
    ("activation", "spec"),
    [(4, ActivationSpec(4)), (None, None), (ActivationSpec(8, "static", False, 7), ActivationSpec(8, "static", False, 7))],
)
def test_the_activation_reaches_the_six_linears_and_nothing_else(bert, activation, spec):
    assigned = assign_rules(bert, named_rules("paper-50x", 1, activation))
    assert {assigned[path].activation for path in LINEARS} == {spec}
    assert {assigned[path].activation for path in assigned.keys() - LINEARS} == {None}


def test_quantizer_rounding_and_schedule_reach_every_weight_and_groups_the_linears_alone(bert):
    options = {"quantizer": "asymmetric", "stochastic": True, "schedule": ((0, 8), (9, 4)), "granularity": 8}
    assigned = assign_rules(bert, named_rules("paper-50x", 4, **options))
    shared = {(spec.quantizer, spec.stochastic, spec.schedule) for spec in assigned.values()}
    assert shared == {("asymmetric", True, ((0, 8), (9, 4)))}
    assert {assigned[path].granularity for path in LINEARS | {POOLER}} == {8}
    assert {assigned[path].granularity for path in OTHER_EMBEDDINGS | {WORDS}} == {"row"}


def test_the_first_rule_that_matches_wins():
    rules = QuantRules((("a/weight", WeightSpec(2)), ("weight", WeightSpec(1))))
    assert rules.assign(["a/weight", "b/weight", "b/bias"]) == {"a/weight": WeightSpec(2), "b/weight": WeightSpec(1)}


def test_a_rule_that_matches_nothing_is_an_error_that_names_it():
    rules = QuantRules((("weight", WeightSpec(1)), ("querry", WeightSpec(1))))
    with pytest.raises(UserError, match="'querry' matches no parameter"):
        rules.assign(["query/weight"])


def test_32_bits_leave_a_weight_alone_though_a_later_rule_would_quantize_it():
    rules = QuantRules((("layer_0", WeightSpec(32)), ("weight", WeightSpec(1))))
    assert rules.assign(["layer_0/weight", "layer_1/weight"]) == {"layer_1/weight": WeightSpec(1)}


@pytest.mark.parametrize("name", ["deepspeed", "paper-50x"])
def test_a_model_without_encoder_layers_is_refused_by_the_name_of_the_unused_rule(name):
    with pytest.raises(UserError, match=r"query\|key\|value"):
        named_rules(name, 1).assign([WORDS, *OTHER_EMBEDDINGS, POOLER])


def test_an_unknown_set_or_a_spec_that_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"^unknown rule set 'paper'; use one of deepspeed, paper-50x$"):
        named_rules("paper", 1)
    with pytest.raises(UserError, match=r"^the rule set: 9 bits are not offered; use 1 to 8, or 32 for float$"):
        named_rules("deepspeed", 9)
    with pytest.raises(UserError, match=r"^the rule set: activations of 5 bits are not offered"):
        named_rules("deepspeed", 1, 5)
    with pytest.raises(UserError, match=r"^the rule set: unknown quantizer 'twn'; use one of binary, binary_centred, ternary"):
        named_rules("deepspeed", 2, quantizer="twn")


@pytest.mark.parametrize("bits", [1, 2, 5])
@pytest.mark.parametrize("granularity", ["tensor", "row", 64])
@pytest.mark.parametrize("activation", [None, 4, 8])
def test_a_written_rule_reads_back_as_itself(bits, granularity, activation):
    name = {1: "binary", 2: "ternary", 5: "symmetric"}[bits]
    text = f"layer_[01]/.*=x/weight$={bits},{granularity}" + (f",a{activation}" if activation else "")
    spec = WeightSpec(bits, granularity, name, ActivationSpec(activation) if activation else None)
    assert parse_rule(text) == ("layer_[01]/.*=x/weight$", spec)


def test_a_rule_says_what_its_spec_says():
    assert parse_rule("pooler=8@0>1@9,a8:static:asymmetric@4") == (
        "pooler",
        WeightSpec(1, "tensor", "binary", ActivationSpec(8, "static", False, 4), schedule=((0, 8), (9, 1))),
    )
    assert parse_rule("pooler=32") == ("pooler", WeightSpec(32))


@pytest.mark.parametrize("text", ["", "pooler", "=1"])
def test_a_rule_of_another_form_is_refused_with_its_text(text):
    with pytest.raises(UserError, match=rf"^quantization rule {text!r} is not of the form REGEX=BITS\[,OPTION\.\.\.\]$"):
        parse_rule(text)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("9", "9 bits are not offered"),
        ("1,column", "unknown option 'column'"),
        ("1,", "unknown option ''"),
        ("1,a5", "activations of 5 bits are not offered"),
        ("32,a8", "activations are quantized only where the weight is"),
        ("1@0>2@5", "the schedule goes from 1@0 to 2@5"),
    ],
)
def test_a_spec_that_cannot_be_is_refused_with_its_whole_rule(spec, complaint):
    with pytest.raises(UserError, match=f"^quantization rule 'pooler={spec}': {complaint}"):
        parse_rule(f"pooler={spec}")


def test_a_rule_that_is_no_regular_expression_is_refused_with_its_text():
    with pytest.raises(UserError, match=r"quantization rule 'pooler\(=1'"):
        parse_rule("pooler(=1")


def test_extra_rules_stand_in_front_in_their_own_order_and_keep_the_rest():
    base = QuantRules((("weight", WeightSpec(1)),), rest="float16")
    rules = with_extra_rules(base, ["layer_0=32", "layer=2"])
    assert rules == QuantRules(
        (("layer_0", WeightSpec(32)), ("layer", WeightSpec(2, quantizer="ternary")), ("weight", WeightSpec(1))), "float16"
    )


def test_an_extra_rule_replaces_a_named_rule_entirely(bert):
    rules = with_extra_rules(named_rules("deepspeed", 1), ["word_embeddings/weight=2,row"])
    assert assign_rules(bert, rules)[WORDS] == WeightSpec(2, "row", "ternary")


@pytest.mark.parametrize("path", ["classifier/bias", "embeddings/LayerNorm/weight"])
def test_a_rule_that_matches_something_else_than_a_matrix_is_refused_by_its_path(bert, path):
    size = named_leaves(bert)[path].shape[0]
    with pytest.raises(UserError, match=rf"matches {path}, shape \({size},\): only matrices"):
        assign_rules(bert, QuantRules(((path, WeightSpec(1)),)))


@pytest.mark.parametrize("size", [0, 7, 512])
def test_a_group_size_that_does_not_divide_a_weight_is_refused_by_its_path(bert, size):
    with pytest.raises(UserError, match=rf"^{POOLER}: groups of {size} do not divide a weight of shape \(16, 16\)$"):
        assign_rules(bert, QuantRules(((POOLER, WeightSpec(1, size)),)))


def test_a_rule_for_a_weight_is_a_rule_for_both_its_halves():
    halves = ["a/weight/first", "a/weight/second"]
    assert [weight_path(path) for path in halves] == ["a/weight"] * 2
    assert weight_path("first/weight") == "first/weight"
    assert QuantRules((("a/weight$", WeightSpec(1)),)).assign([*halves, "b/weight"]) == dict.fromkeys(halves, WeightSpec(1))


def test_the_rules_of_a_step_are_those_of_each_spec_and_change_when_any_does():
    rules = QuantRules(
        tuple(parse_rule(text) for text in ("a/weight=8@0>1@100,a8@50", "b/weight=2@30", "c/weight=1")), rest="float16"
    )
    assert rules.changes == (30, 50, 100)
    paths = ["a/weight", "b/weight", "c/weight"]
    one = WeightSpec(1, quantizer="binary")
    start = WeightSpec(8, quantizer="symmetric")
    assert rules.at(0).assign(paths) == {"a/weight": start, "c/weight": one}
    assert rules.at(30).assign(paths)["b/weight"] == WeightSpec(2, quantizer="ternary")
    assert rules.at(50).assign(paths)["a/weight"] == WeightSpec(
        8, quantizer="symmetric", activation=ActivationSpec(8, start=50)
    )
    assert rules.at(100).assign(paths)["a/weight"].bits == 1
    assert rules.at(7).rest == "float16"
    for before, after in itertools.pairwise((0, *rules.changes, 200)):
        assert rules.at(before) == rules.at(after - 1)


def test_rules_without_a_schedule_never_change():
    rules = named_rules("paper-50x", 1)
    assert rules.changes == ()
    assert rules.at(0) == rules.at(10**6) == rules
