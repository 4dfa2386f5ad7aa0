"""The form of a config: stages, phases, arguments, and what ``runlocal`` makes of them."""

import pytest

from xtc_jax.errors import UserError
from xtc_jax.recipe.recipe import make_recipe
from xtc_jax.recipe.runlocal import shrink
from xtc_jax.recipe.schema import LOCAL_MODEL, LOSSES, add_phases, base_config, choose, parse_arg, stage_config

DEFAULTS = {"task": "sst2", "layers": 6, "scale": 0.5, "runlocal": False}


@pytest.mark.parametrize(
    ("arg", "expected"),
    [
        ("", {}),
        (None, {}),
        ("cola", {"task": "cola"}),
        ("cola,layers=5,runlocal", {"task": "cola", "layers": 5, "runlocal": True}),
        ("runlocal=true,scale=2", {"runlocal": True, "scale": 2.0}),
        ("runlocal=0", {}),
        ("task=rte", {"task": "rte"}),
        ("task=a=b", {"task": "a=b"}),
    ],
)
def test_a_config_argument_overrides_the_defaults(arg, expected):
    assert parse_arg(arg, **DEFAULTS).to_dict() == {**DEFAULTS, **expected}


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("depth=3", "config argument 'depth=3': unknown; use task, layers, scale, runlocal"),
        ("layers=six", "config argument 'layers=six': 'six' is not a int"),
        ("scale=big", "config argument 'scale=big': 'big' is not a float"),
    ],
)
def test_a_wrong_config_argument_is_named(arg, message):
    with pytest.raises(UserError) as error:
        parse_arg(arg, **DEFAULTS)
    assert str(error.value) == message


def test_choosing_what_is_not_there_lists_what_is():
    assert choose("layers", 6, {12: "all", 6: "half"}) == "half"
    with pytest.raises(UserError, match=r"^layers=7: use one of 12, 6$"):
        choose("layers", 7, {12: "all", 6: "half"})


def test_a_stage_has_the_defaults_of_the_paper():
    stage = stage_config()
    assert (stage.epochs, stage.warmup_epochs, stage.batch_size, stage.learning_rate) == (18.0, 1.0, 32, 5e-5)
    assert (stage.weight_decay, stage.clip, stage.weight_bits, stage.activation_bits) == (0.01, 1.0, 32, 8)
    assert (stage.activation_range, stage.granularity, stage.rules) == ("token", "tensor", "deepspeed")
    assert [stage.loss[name] for name in LOSSES] == [0.0, 1.0, 1.0, 1.0]
    assert stage.loss.temperature == 1.0


@pytest.mark.parametrize("layers", [(1, 3, 5), [1, 3, 5], "1,3,5"])
def test_layers_may_be_numbers_and_are_kept_as_text(layers):
    assert stage_config(layers=layers).layers == "1,3,5"


def test_a_loss_that_is_not_named_keeps_its_default():
    assert stage_config(loss={"hidden": 2.0}).loss.to_dict() == {**stage_config().loss.to_dict(), "hidden": 2.0}


@pytest.mark.parametrize(
    ("make", "start", "known"),
    [
        (lambda: stage_config(epoch=3), "stage_config: unknown key 'epoch'; use one of ", stage_config()),
        (lambda: base_config(sede=3), "base_config: unknown key 'sede'; use one of ", base_config()),
        (lambda: stage_config(loss={"logits": 1.0}), "stage_config: unknown loss 'logits'; use one of ", stage_config().loss),
    ],
    ids=["stage", "base", "loss"],
)
def test_an_unknown_key_is_refused_with_the_known_ones(make, start, known):
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value) == start + ", ".join(known)


INTERMEDIATE = (("attention", "hidden"), (1, 2), 100, 2.5e-5)
PREDICTION = (("logit",), (1,), 50, 1e-5)
LABELS = (("label",), (0.5,), 2.0, 1e-6)


def phased(*phases, **shared):
    config = base_config()
    config.teacher = stage_config()
    names = add_phases(config, "student", phases, teacher="teacher", **shared)
    config.stages = ("teacher", *names)
    return config, names


@pytest.mark.parametrize(
    ("phases", "names"),
    [
        ((PREDICTION,), ("student",)),
        ((INTERMEDIATE, PREDICTION), ("student_1", "student")),
        ((INTERMEDIATE, PREDICTION, LABELS), ("student_1", "student_2", "student")),
    ],
    ids=["one stage", "two", "three"],
)
def test_each_phase_is_a_stage_that_starts_from_the_one_before(phases, names):
    config, found = phased(*phases, init="teacher", layers=(1, 3), result="reduced", weight_bits=2)
    assert found == names
    assert [config[name].init for name in names] == ["teacher", *names[:-1]]
    assert [config[name].layers for name in names] == ["1,3", *[""] * (len(names) - 1)]
    assert [config[name].result for name in names] == [*[""] * (len(names) - 1), "reduced"]
    assert {(config[name].teacher, config[name].weight_bits) for name in names} == {("teacher", 2)}
    assert [stage.name for stage in make_recipe(config).stages] == ["teacher", *names]


def test_a_phase_has_its_own_losses_steps_and_learning_rate():
    config, names = phased(INTERMEDIATE, PREDICTION, LABELS, init="teacher")
    weights = [[config[name].loss[loss] for loss in LOSSES] for name in names]
    assert weights == [[0, 0, 1, 2], [0, 1, 0, 0], [0.5, 0, 0, 0]]
    assert [(config[name].steps, config[name].learning_rate) for name in names] == [(100, 2.5e-5), (50, 1e-5), (0, 1e-6)]
    assert config.student.epochs == 2.0  # a float counts epochs


def test_phases_share_what_is_not_a_weight_of_a_loss():
    config, names = phased(INTERMEDIATE, PREDICTION, loss={"temperature": 4.0, "logit": 9.0})
    assert [config[name].loss.temperature for name in names] == [4.0, 4.0]
    assert [config[name].loss.logit for name in names] == [0.0, 1.0]


def test_only_the_first_phase_has_a_checkpoint_and_splits():
    config, names = phased(INTERMEDIATE, PREDICTION, model="some/model")
    assert [config[name].model for name in names] == ["some/model", ""]
    make_recipe(config)
    config, names = phased(INTERMEDIATE, PREDICTION, init="teacher", split=True)
    assert [config[name].split for name in names] == [True, False]


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        (
            (("logits",), (1,), 5, 1e-5),
            "phase 2 of student: unknown loss 'logits'; losses are label, logit, attention, hidden, ",
        ),
        ((("logit", "hidden"), (1,), 5, 1e-5), "phase 2 of student: 2 losses and 1 weights; losses are label, logit, "),
    ],
)
def test_a_wrong_phase_is_named_by_its_number(phase, message):
    with pytest.raises(UserError) as error:
        phased(PREDICTION, phase)
    assert str(error.value).startswith(message)


def test_a_shared_key_that_stages_do_not_have_is_refused():
    with pytest.raises(UserError, match="unknown key 'epoch'"):
        phased(PREDICTION, epoch=3)


def a_config(**values):
    config = base_config(stages=("teacher", "reduce", "quantize"), **values)
    config.teacher = stage_config(epochs=3.0)
    config.reduce = stage_config(result="reduced", init="teacher", teacher="teacher", layers=(1, 3, 5, 7, 9, 11))
    config.quantize = stage_config(init="reduce", teacher="teacher", weight_bits=1)
    return config


def test_runlocal_shrinks_model_data_and_steps_of_a_copy():
    config = a_config(model="google-bert/bert-base-uncased", runlocal=True)
    small = make_recipe(config)
    assert small.config["model"] == LOCAL_MODEL
    data = small.config["data"]
    assert (data["max_length"], data["buckets"], data["limit_train"], data["limit_validation"]) == (32, [32], 128, 64)
    assert [stage.counts(1000) for stage in small.stages] == [(6, 1)] * 3
    assert [stage.layers for stage in small.stages] == ["first(3)", "1", ""]
    assert {(stage.batch_size, stage.eval_every, stage.dropout) for stage in small.stages} == {(8, 6, 0.0)}
    assert config.model == "google-bert/bert-base-uncased"
    assert config.reduce.layers == "1,3,5,7,9,11"


@pytest.mark.parametrize("model", ["pinned:all-MiniLM-L6-v2", "./mine", "/data/mine", "~/mine", "../mine"])
def test_runlocal_keeps_a_model_that_is_already_here(model):
    assert shrink(a_config(model=model)).model == model


def test_runlocal_does_not_grow_what_is_small_already():
    config = a_config()
    config.data.max_length, config.data.limit_train, config.teacher.steps, config.teacher.batch_size = 16, 20, 2, 4
    small = shrink(config)
    assert (small.data.max_length, small.data.limit_train, small.teacher.steps, small.teacher.batch_size) == (16, 20, 2, 4)


@pytest.mark.parametrize(
    ("key", "given", "small"),
    [
        ("grid", (1e-5, 2e-5, 5e-5), (1e-5, 2e-5)),
        ("grid", (), ()),
        ("bit_schedule", "8@0>4@500>1@1000", "8@0>4@1>1@2"),
        ("bit_schedule", "8@0>7@1>6@2>5@3>4@4>3@5>2@6>1@7", "6@0>5@1>4@2>3@3>2@4>1@5"),
        ("bit_schedule", "8@0>2@15%>1@40%", "8@0>2@1>1@2"),
        ("bit_schedule", "", ""),
        ("activation_start", 500, 1),
        ("activation_start", 0, 0),
        ("layers", "2,4,6,8,10", "2"),
        ("layers", "every_other", "every_other"),
        ("layers", "evenly(2)", "evenly(2)"),
        ("layers", "evenly(5)", "evenly(3)"),
        ("match", "(1, 3, 7)", ""),
        ("model", "some/model", LOCAL_MODEL),
        (
            "extra_rules",
            ("pooler=8@0>1@900,a8:static@700", "x/weight$=4,row"),
            ("pooler=8@0>1@1,a8:static@1", "x/weight$=4,row"),
        ),
        ("extra_rules", ("pooler",), ("pooler",)),
        ("augmented", True, True),
    ],
)
def test_runlocal_keeps_the_kind_of_every_key_of_a_stage(key, given, small):
    config = a_config()
    config.quantize[key] = given
    assert shrink(config).quantize[key] == small


def test_runlocal_trains_a_checkpoint_that_was_to_be_taken_as_it_is_and_no_later_stage_of_that_kind():
    config = a_config()
    config.teacher.epochs = config.quantize.epochs = 0.0
    trained = [stage.trains for stage in make_recipe(shrink(config)).stages]
    assert trained == [True, True, False]  # the local model's head is a new one


def test_runlocal_augments_once_with_a_model_that_is_here():
    config = a_config()
    config.augment.model, config.augment.count = "google-bert/bert-base-uncased", 20
    small = shrink(config).augment
    assert (small.model, small.count) == (LOCAL_MODEL, 1)
    assert shrink(a_config()).augment.model == ""
