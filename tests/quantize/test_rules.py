"""Which parameter gets how many bits."""

import itertools

import jax
import jax.numpy as jnp
import pytest

from xtc_jax.bert import BertConfig, init
from xtc_jax.errors import UserError
from xtc_jax.quantize import QuantRules, WeightSpec, assign_rules, named_leaves, named_rules, parse_rule, with_extra_rules

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


@pytest.fixture(scope="module")
def bert():
    shapes = jax.eval_shape(lambda: init(CONFIG, jax.random.key(0)))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)


@pytest.mark.parametrize("bits", [1, 2])
def test_the_deepspeed_set_is_the_six_linears_with_8_bit_inputs_and_the_word_embeddings_by_row(bert, bits):
    linear, table = WeightSpec(bits, "tensor", 8), WeightSpec(bits, "row")
    assert assign_rules(bert, named_rules("deepspeed", bits)) == {**dict.fromkeys(LINEARS, linear), WORDS: table}
    assert named_rules("deepspeed", bits).rest == "float32"


@pytest.mark.parametrize("bits", [1, 2])
def test_the_paper_set_adds_the_other_embeddings_by_row_and_the_pooler_without_its_input(bert, bits):
    more = {**dict.fromkeys(OTHER_EMBEDDINGS, WeightSpec(bits, "row")), POOLER: WeightSpec(bits, "tensor")}
    assert assign_rules(bert, named_rules("paper-50x", bits)) == assign_rules(bert, named_rules("deepspeed", bits)) | more
    assert named_rules("paper-50x", bits).rest == "float16"


@pytest.mark.parametrize("activation_bits", [4, None])
def test_activation_bits_reach_the_six_linears_and_nothing_else(bert, activation_bits):
    assigned = assign_rules(bert, named_rules("paper-50x", 1, activation_bits))
    assert {assigned[path].activation_bits for path in LINEARS} == {activation_bits}
    assert {assigned[path].activation_bits for path in assigned.keys() - LINEARS} == {None}


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


def test_an_unknown_set_or_number_of_bits_is_refused():
    with pytest.raises(UserError, match="unknown rule set 'paper'; use 'deepspeed' or 'paper-50x'"):
        named_rules("paper", 1)
    with pytest.raises(UserError, match=r"weight_bits=3 is not supported; use one of \(1, 2\)"):
        named_rules("deepspeed", 3)


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("granularity", ["tensor", "row", 64])
@pytest.mark.parametrize("activation_bits", [None, 4, 8])
def test_a_written_rule_reads_back_as_itself(bits, granularity, activation_bits):
    text = f"layer_[01]/.*=x/weight$={bits},{granularity}" + (f",a{activation_bits}" if activation_bits else "")
    assert parse_rule(text) == ("layer_[01]/.*=x/weight$", WeightSpec(bits, granularity, activation_bits))


def test_a_rule_that_leaves_a_weight_alone_has_no_activations_to_quantize():
    assert parse_rule("pooler=32") == ("pooler", WeightSpec(32))
    with pytest.raises(UserError, match="'pooler=32,a8': activations are quantized only where the weight is"):
        parse_rule("pooler=32,a8")


def test_granularity_is_the_whole_tensor_where_a_rule_names_none():
    assert parse_rule("pooler=1") == ("pooler", WeightSpec(1, "tensor", None))
    assert parse_rule("pooler=1,a8") == ("pooler", WeightSpec(1, "tensor", 8))


@pytest.mark.parametrize(
    "text", ["", "pooler", "=1", "pooler=3", "pooler=1,column", "pooler=1,a8,row", "pooler=1,", "pooler=1,-4"]
)
def test_a_rule_of_another_form_is_refused_with_its_text(text):
    with pytest.raises(UserError, match=rf"quantization rule {text!r} is not of the form REGEX=BITS"):
        parse_rule(text)


@pytest.mark.parametrize("bits", [0, 1, 2, 9])
def test_a_rule_asks_for_activations_of_3_to_8_bits_only(bits):
    with pytest.raises(UserError, match=f"pooler=1,a{bits}"):
        parse_rule(f"pooler=1,a{bits}")


def test_a_rule_that_is_no_regular_expression_is_refused_with_its_text():
    with pytest.raises(UserError, match=r"quantization rule 'pooler\(=1'"):
        parse_rule("pooler(=1")


def test_extra_rules_stand_in_front_in_their_own_order_and_keep_the_rest():
    base = QuantRules((("weight", WeightSpec(1)),), rest="float16")
    rules = with_extra_rules(base, ["layer_0=32", "layer=2"])
    assert rules == QuantRules((("layer_0", WeightSpec(32)), ("layer", WeightSpec(2)), ("weight", WeightSpec(1))), "float16")


def test_an_extra_rule_replaces_a_named_rule_entirely(bert):
    rules = with_extra_rules(named_rules("deepspeed", 1), ["word_embeddings/weight=2,row"])
    assert assign_rules(bert, rules)[WORDS] == WeightSpec(2, "row")


@pytest.mark.parametrize("path", ["classifier/bias", "embeddings/LayerNorm/weight"])
def test_a_rule_that_matches_something_else_than_a_matrix_is_refused_by_its_path(bert, path):
    size = named_leaves(bert)[path].shape[0]
    with pytest.raises(UserError, match=rf"matches {path}, shape \({size},\): only matrices"):
        assign_rules(bert, QuantRules(((path, WeightSpec(1)),)))


def test_a_group_size_that_does_not_divide_a_weight_is_refused_by_its_path(bert):
    with pytest.raises(UserError, match=rf"{POOLER}: groups of 7 do not divide a weight of shape \(16, 16\)"):
        assign_rules(bert, QuantRules(((POOLER, WeightSpec(1, 7)),)))
