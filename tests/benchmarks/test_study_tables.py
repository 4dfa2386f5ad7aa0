"""The tables of the study: means over seeds, shares of the teacher, sizes; the page shows those of the recorded results."""

import importlib.util
from pathlib import Path

import pytest

STUDY = Path(__file__).resolve().parents[2] / "benchmarks" / "study"


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("tables", STUDY / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cola(value):
    return {"metrics": {"matthews_correlation": value}, "bytes": 4000}


@pytest.fixture
def runs():
    """CoLA with three seeds, STS-B and MRPC with one."""
    teachers = {
        "cola-42": {"teacher": cola(0.50)},
        "stsb-42": {"teacher": {"metrics": {"pearson": 0.8, "spearman": 0.7}, "bytes": 4000}},
        "mrpc-42": {"teacher": {"metrics": {"accuracy": 0.7, "f1": 0.9}, "bytes": 4000}},
    }
    teachers["cola-42"]["w1_3"] = cola(0.40)
    teachers["cola-43"] = {"teacher": cola(0.50), "w1_3": cola(0.45)}
    teachers["cola-44"] = {"teacher": cola(0.50), "w1_3": cola(0.47)}
    teachers["stsb-42"]["w1_3"] = {"metrics": {"pearson": 0.76, "spearman": 0.7}, "bytes": 4000}
    teachers["mrpc-42"]["w1_3"] = {"metrics": {"accuracy": 0.75, "f1": 0.85}, "bytes": 4000}
    for name in ("cola-42", "stsb-42"):
        teachers[name]["packed-w1_3"] = {"bytes": 200 if name == "cola-42" else 100}
    return teachers


def test_three_seeds_are_a_mean_with_its_deviation_and_fewer_are_themselves(tables):
    assert tables.spread([40.0, 45.0, 47.0]) == "44.00 ± 3.61"
    assert tables.spread([40.0, 45.0]) == "40.00, 45.00"
    assert tables.spread([]) == ""


def test_the_number_of_mrpc_is_the_mean_of_accuracy_and_f1(tables):
    assert tables.score("mrpc", {"accuracy": 0.7, "f1": 0.9}) == pytest.approx(80.0)


def test_a_student_stands_with_its_sizes_its_numbers_and_its_mean_share_of_the_teachers(tables, runs):
    assert tables.student_row(runs, "1 bit", "w1_3") == [
        "1 bit",
        "20.0 to 40.0",
        "44.00 ± 3.61 (88.0 %)",
        "80.00 (100.0 %)",
        "76.00 (95.0 %)",
        "",
        "94.3 %",
    ]


def test_few_bits_have_a_size_once_they_are_packed_and_full_precision_without(tables, runs):
    runs["cola-42"] |= {"w2_3": {**cola(0.4), "weight_bits": 2}, "layers_3": {"bytes": 2000, "weight_bits": 32}}
    assert tables.smaller(runs, "w2_3") == ""
    assert tables.smaller(runs, "layers_3") == "2.0"
    runs["cola-42"]["packed-w2_3"] = {"bytes": 400}
    assert tables.smaller(runs, "w2_3") == "10.0"


def test_a_table_has_the_students_that_there_are(tables, runs):
    lines = tables.student_table(runs, [("1 bit", "w1_3"), ("2 bits", "w2_3")]).splitlines()
    assert len(lines) == 3  # of 2 bits there is none
    assert lines[2].startswith("| 1 bit | ")


def test_deepspeeds_runs_stand_beside_ours_with_the_ratio_of_their_times(tables, runs):
    ours = {"metrics": {"matthews_correlation": 0.4}, "seconds": 40.0}
    rivals = {
        f"cola-{seed}, padded to the longest": {
            "metrics": {"matthews_correlation": 0.4},
            "seconds": 100.0,
            **({"ours": ours} if seed != 44 else {}),
        }
        for seed in (42, 43, 44)
    }
    rivals["mrpc-42, padded to 128"] = {"metrics": {"accuracy": 0.7, "f1": 0.9}, "seconds": 300.0}
    rivals["cola-45, padded to 128"] = {"metrics": {"matthews_correlation": 0.3}, "seconds": 120.0, "ours": ours}
    assert tables.deepspeed_table(runs, rivals).splitlines()[2:] == [
        "| CoLA, padded to the longest | 40.00 ± 0.00 | 44.00 ± 3.61 | 100 / 100 | 40 / 40 | 2.50 / 2.50 |",
        "| CoLA, padded to 128 | 30.00 | 40.00 | 120 | 40 | 3.00 |",
        "| MRPC, padded to 128 | 80.00 | 80.00 |  |  |  |",
    ]


def test_every_machine_and_commit_has_its_runs(tables):
    here = {"processor": "P", "int8 instructions": "vnni", "jax": "0.12", "commit": "abc", "date": "2026-11-29", "cores": 1}
    runs = {
        "cola-43": {"w1_3": {"environment": here}, "baselines": []},
        "cola-42": {"w1_3": {"environment": here}, "w1_9": {"environment": {**here, "commit": "def"}}},
    }
    assert tables.machines_table(runs, {"mrpc-45, padded to 128": {"environment": here}}).splitlines()[2:] == [
        "| cola-42, cola-43, mrpc-45 by DeepSpeed | P | vnni | 0.12 | abc | 2026-11-29 |",
        "| cola-42 | P | vnni | 0.12 | def | 2026-11-29 |",
    ]


def test_a_table_replaces_the_one_between_its_comments(tables):
    page = "before\n<!-- table: a -->\nold\n<!-- end -->\nafter <!-- table: b -->\n<!-- end -->"
    made = tables.with_tables(page, {"a": r"| \1 |" + "\n"})
    assert made == page.replace("old", r"| \1 |")


def test_the_page_shows_the_tables_of_the_recorded_results(tables):
    made = tables.tables(tables.read("claims.json").get("runs", {}), tables.read("claims_deepspeed.json"))
    page = tables.PAGE.read_text()
    assert all(f"<!-- table: {name} -->\n" in page for name in made)
    assert tables.with_tables(page, made) == page


def test_seeds_share_a_teacher_and_each_is_compared_with_its_own(tables, runs):
    assert tables.scores(runs, "cola", "teacher") == [50.0]
    runs["cola-45"] = {"teacher": cola(0.25), "w1_3": cola(0.25)}
    assert tables.scores(runs, "cola", "teacher") == [50.0, 25.0]
    assert tables.shares(runs, "w1_3")["cola"] == pytest.approx((80 + 90 + 94 + 100) / 4)


def test_the_aims_of_students_that_have_run_stand_beside_the_longest_training_of_three_seeds(tables, runs):
    runs["cola-42"]["w1_9"] = cola(0.48)
    runs["sst2-42"] = {name: {"metrics": {"accuracy": 0.9}} for name in ("teacher", "w1_1")}
    others = "100.0 % (3, 1) | 95.0 % (3, 1) | 100.0 % (1, 1)"
    assert tables.aims_table(runs).splitlines()[2] == f"| 1 bit | 88.0 % (3, 3) | {others} | 95.8 % | 98 % |"
    runs["cola-43"]["w1_9"] = runs["cola-44"]["w1_9"] = cola(0.48)
    assert tables.aims_table(runs).splitlines()[2] == f"| 1 bit | 96.0 % (9, 3) | {others} | 97.8 % | 98 % |"


def test_choices_stand_with_their_sizes_and_the_tasks_that_have_them(tables):
    def run(teacher, **students):
        found = {name: {"metrics": {"pearson": value}} for name, value in {"teacher": teacher, **students}.items()}
        found["teacher"] |= {"bytes": 4000, "weight_bits": 32}
        return found

    pairs = ((42, 0.79, 0.70), (43, 0.80, 0.72), (44, 0.81, 0.74))
    runs = {f"choices-stsb-{seed}": run(teacher, row=student) for seed, teacher, student in pairs}
    runs["choices-stsb-42"]["packed-row"] = {"bytes": 80}
    runs["choices-sst2-42"] = {name: {"metrics": {"accuracy": 0.9}, "bytes": 4000} for name in ("teacher", "row_2_1")}
    assert tables.choices_table(runs).splitlines()[2:] == [
        "| the teacher | 1.0 | 80.00 ± 1.00 | 90.00 |",
        "| 1 bit, a scale for each row | 50.0 | 72.00 ± 2.00 (90.0 %) |  |",
        "| rows, 2 bits for 40 % of the steps, then 1 |  |  | 90.00 (100.0 %) |",
    ]


def test_a_table_without_rows_says_so(tables, runs):
    assert tables.student_table(runs, [("2 bits", "w2_3")]) == "None of these runs has ended yet.\n"
