"""A run with the cache, and the same without: to the bit."""

import errno
import os
from dataclasses import replace

import jax
import numpy as np
import pytest
from cached_runs import DISTILL, EPOCH, STEPS, Counted, a_cache, a_run, a_set, a_teacher, outcome

from xtc_jax.compress import DistillSpec
from xtc_jax.parallel import make_mesh, put_batch, put_sharded
from xtc_jax.quantize import ActivationSpec, named_rules
from xtc_jax.train import make_teacher_step, teaching
from xtc_jax.train.metrics import read_metrics
from xtc_jax.train.teacher_cache import Targets, policy

PADDED = DistillSpec(attention_norm="ternarybert", hidden_norm="deepspeed")


@pytest.fixture(scope="module")
def teacher():
    return a_teacher()


@pytest.fixture(scope="module")
def compiled():
    return {}


@pytest.fixture(scope="module")
def without(tmp_path_factory, compiled):
    return outcome(a_run(tmp_path_factory.mktemp("without"), None), compiled)


@pytest.mark.slow
def test_losses_and_final_parameters_are_the_same_to_the_bit_with_the_cache_and_without(
    tmp_path, monkeypatch, compiled, without
):
    counted = Counted(monkeypatch)
    assert outcome(a_run(tmp_path, a_cache(tmp_path)), compiled) == without
    assert counted.asked == STEPS
    assert counted.read >= EPOCH  # the whole last epoch, but for a batch of mixed lengths
    records = [record for record in read_metrics(tmp_path / "metrics.jsonl") if "loss" in record]
    assert all(record["seconds/teacher"] > 0 for record in records)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(4, 1, 1), (1, 4, 1), (1, 1, 4)], ids=["data", "fsdp", "tensor"])
def test_so_they_are_on_every_kind_of_mesh(tmp_path, monkeypatch, mesh):
    compiled = {}
    expected = outcome(a_run(tmp_path / "without", None, mesh=mesh), compiled)
    counted = Counted(monkeypatch)
    assert outcome(a_run(tmp_path / "with", a_cache(tmp_path), mesh=mesh), compiled) == expected
    assert counted.read >= EPOCH


@pytest.mark.slow
def test_a_second_run_with_the_same_teacher_computes_only_batches_of_mixed_lengths(tmp_path, monkeypatch, compiled, without):
    cache = a_cache(tmp_path)
    outcome(a_run(tmp_path / "first", cache), compiled)
    counted = Counted(monkeypatch)
    assert outcome(a_run(tmp_path / "second", cache), compiled) == without
    assert counted.read >= STEPS - 2 * 3  # in each of three epochs, one batch of both lengths, and what is left


@pytest.mark.parametrize(
    "changes",
    [{"teacher_dtype": "bfloat16"}, {"spec": PADDED}, {"spec": DistillSpec(attention=0.0, hidden=0.0)}, {"accumulate": 2},
     {"dtype": "bfloat16"}, {"teacher_rules": named_rules("deepspeed", 2, 8)}],
    ids=["stored in bfloat16", "norms that count padding", "logits alone", "in parts", "in bfloat16", "a quantized teacher"],
)  # fmt: skip
@pytest.mark.slow
def test_so_they_are_for_every_kind_of_objective(tmp_path, monkeypatch, changes):
    objective, compiled = replace(DISTILL, **changes), {}
    expected = outcome(a_run(tmp_path / "without", None, objective), compiled)
    counted = Counted(monkeypatch)
    mesh = (2, 1, 2) if "accumulate" in changes else (-1, 1, 1)
    if "accumulate" in changes:
        expected = outcome(a_run(tmp_path / "mesh", None, objective, mesh=mesh), compiled)
    found = outcome(a_run(tmp_path / "with", a_cache(tmp_path), objective, mesh=mesh), compiled)
    assert found == expected
    assert counted.read >= EPOCH


def test_bfloat16_halves_the_file(tmp_path, teacher):
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        objective = replace(DISTILL, teacher_dtype=dtype, spec=DistillSpec(attention=0.0))
        with_cache(tmp_path / dtype, teacher, objective)
        sizes[dtype] = (tmp_path / dtype / "teacher_cache" / "entries").stat().st_size
    assert 0.5 <= sizes["bfloat16"] / sizes["float32"] < 0.52


def with_cache(directory, teacher, objective=DISTILL, log=lambda _: None, key="a teacher", **values):
    mesh = make_mesh()
    targets = Targets(make_teacher_step(teaching(objective), mesh), put_sharded(teacher, mesh), mesh, log)
    targets.use(a_cache(directory, **values), teaching(objective), a_set(), lambda: {"key": key})
    return targets


def batches_of(epochs=1):
    return [a_set().batch(planned) for epoch in range(epochs) for planned in a_set().plan(0, epoch)]


def ask(targets, batches):
    """The targets, and for each whether the teacher ran."""
    found, ran = [], []
    for batch in batches:
        found.append(jax.device_get(targets(batch, put_batch(batch, make_mesh()))))
        ran.append(bool(targets.ran))
    return found, ran


def mixed(batch):
    lengths = a_set().tokens.lengths[batch["index"][batch["valid"]]]
    return bool((np.searchsorted(a_set().buckets, lengths) != a_set().buckets.index(batch["input_ids"].shape[1])).any())


@pytest.fixture
def filled(tmp_path, teacher):
    """A directory whose cache has seen an epoch, with the targets of it."""
    targets = with_cache(tmp_path, teacher)
    found, ran = ask(targets, batches_of())
    targets.close()
    assert all(ran)
    return tmp_path, found


def same(left, right):
    return all(
        a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    )


def test_what_is_read_is_to_the_bit_what_was_computed_and_0_at_padding(filled, teacher):
    directory, computed = filled
    read, ran = ask(with_cache(directory, teacher), batches_of())
    assert ran == [mixed(batch) for batch in batches_of()]
    assert ran.count(False) >= 4
    assert same(computed, read)
    for target, batch in zip(read, batches_of(), strict=True):
        assert not np.any(target.hidden_states[2][batch["attention_mask"] == 0])
        assert not np.any(target.logits[~batch["valid"]])


def test_what_is_read_waits_for_no_step_and_what_is_computed_does(filled, teacher, tmp_path):
    directory, _ = filled
    full, empty = with_cache(directory, teacher), with_cache(tmp_path / "other", teacher)
    assert [full.waits(batch) for batch in batches_of()] == [mixed(batch) for batch in batches_of()]
    assert all(empty.waits(batch) for batch in batches_of())
    full.close()
    assert all(full.waits(batch) for batch in batches_of())


def test_only_what_the_layer_map_compares_is_kept(filled):
    _, computed = filled
    assert sorted(computed[0].hidden_states) == [0, 2]
    assert sorted(computed[0].attention_scores) == [1]


@pytest.mark.parametrize("kind", ["a byte", "another example's", "cut off"])
def test_a_damaged_entry_is_recognised_and_computed_again(filled, teacher, kind):
    directory, computed = filled
    file, lines = directory / "teacher_cache" / "entries", []
    targets = with_cache(directory, teacher)
    clear = next(batch for batch in batches_of() if not mixed(batch))
    layout, (one, other) = targets._store._layout, clear["index"][:2]
    targets.close()
    content = bytearray(file.read_bytes())
    begin, size = layout.offsets[one], layout.entry_bytes(one)
    if kind == "a byte":
        content[begin + size // 2] ^= 1
    elif kind == "cut off":
        del content[begin + size // 2 :]
    else:
        content[begin : begin + 500] = content[layout.offsets[other] : layout.offsets[other] + 500]
    file.write_bytes(content)
    read, ran = ask(with_cache(directory, teacher, log=lines.append), batches_of())
    assert same(computed, read)
    number = next(i for i, batch in enumerate(batches_of()) if one in batch["index"])
    assert ran[number]
    assert len(lines) == 1
    assert str(file) in lines[0]
    assert f"example {one} is damaged" in lines[0] or kind == "cut off"
    assert ask(with_cache(directory, teacher), batches_of())[1][number] is False  # it was written again


def test_the_entries_of_another_teacher_are_not_read(filled, teacher):
    directory, _ = filled
    _, ran = ask(with_cache(directory, teacher, key="another teacher"), batches_of())
    assert all(ran)


def test_a_cache_that_does_not_fit_its_budget_is_a_line_and_not_made(tmp_path, teacher):
    lines = []
    targets = with_cache(tmp_path, teacher, log=lines.append, budget=1000)
    assert ask(targets, batches_of(2))[1] == [True] * 2 * EPOCH
    assert len(lines) == 1
    assert "it would take 0.00 GB, and the budget is 0.00 GB; not used" in lines[0]
    assert not (tmp_path / "teacher_cache").exists()


def test_a_directory_that_cannot_be_written_is_a_line_and_the_run_goes_on_without(tmp_path, teacher):
    (tmp_path / "teacher_cache").write_text("in the way")
    lines = []
    targets = with_cache(tmp_path, teacher, log=lines.append)
    assert ask(targets, batches_of(2))[1] == [True] * 2 * EPOCH
    assert len(lines) == 1
    assert lines[0].startswith(f"teacher cache: {tmp_path / 'teacher_cache'}: ")
    assert lines[0].endswith("; not used")


def test_a_disk_that_gets_full_is_a_line_and_its_space_is_given_back(tmp_path, monkeypatch, teacher):
    written, pwrite, lines = [], os.pwrite, []

    def full(file, entry, offset):
        written.append(offset)
        if len(written) == 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(file, entry, offset)

    monkeypatch.setattr(os, "pwrite", full)
    targets = with_cache(tmp_path, teacher, log=lines.append)
    assert ask(targets, batches_of(2))[1] == [True] * 2 * EPOCH
    assert len(written) == 20
    assert lines == [f"teacher cache: {tmp_path}/teacher_cache/entries: No space left on device; not used"]
    assert not (tmp_path / "teacher_cache").exists()


def test_auto_uses_nothing_for_a_single_pass(tmp_path, teacher):
    assert ask(with_cache(tmp_path, teacher, budget=None, batches=EPOCH), batches_of(2))[1] == [True] * 2 * EPOCH
    assert not (tmp_path / "teacher_cache").exists()


@pytest.mark.parametrize(("seconds", "used"), [(0.5, True), (0.0, False)])
def test_auto_measures_a_few_batches_and_goes_on_without_where_reading_is_not_cheaper(
    tmp_path, monkeypatch, teacher, seconds, used
):
    lines, add = [], policy.Costs.add
    monkeypatch.setattr(policy.Costs, "add", lambda costs, *_: add(costs, seconds, 0.2, 0.1))
    targets = with_cache(tmp_path, teacher, log=lines.append, budget=None)
    _, ran = ask(targets, batches_of(2))
    assert (False in ran) == used
    assert bool(lines) != used
    assert used or lines[0].endswith(
        "a batch takes 0.0 ms to compute, 200.0 to write, 100.0 to read: it does not pay; not used"
    )


def test_a_teacher_whose_activations_have_a_range_over_the_batch_is_not_kept(tmp_path, teacher):
    rules = named_rules("deepspeed", 2, ActivationSpec(8, "tensor"))
    lines = []
    targets = with_cache(tmp_path, teacher, replace(DISTILL, teacher_rules=rules), lines.append)
    assert ask(targets, batches_of(2))[1] == [True] * 2 * EPOCH
    assert lines == ["teacher cache: the activations of the teacher have a range over the whole batch; not used"]


def test_lengths_at_which_an_example_depends_on_the_others_are_always_computed(tmp_path, monkeypatch, teacher):
    monkeypatch.setattr(Targets, "_is_sound", lambda self, rows, target: rows["input_ids"].shape[1] == 12)
    targets = with_cache(tmp_path, teacher)
    _, ran = ask(targets, batches_of(4))
    lengths = [batch["input_ids"].shape[1] for batch in batches_of(4)]
    assert {length for length, computed in zip(lengths, ran, strict=True) if not computed} == {12}


def test_the_measure_of_dependence_sees_a_teacher_that_depends_on_its_batch(tmp_path, teacher):
    rules = named_rules("deepspeed", 2, ActivationSpec(8, "tensor"))
    mesh = make_mesh()
    batch = next(batch for batch in batches_of() if batch["valid"].all())
    for objective, sound in ((replace(DISTILL, teacher_rules=rules), False), (DISTILL, True)):
        teach = make_teacher_step(teaching(objective), mesh)
        targets = Targets(teach, put_sharded(teacher, mesh), mesh)
        assert targets._is_sound(batch, targets(batch, put_batch(batch, mesh))) == sound
