"""Examples from files: every format, every layout, every refusal."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from xtc_jax.data import GLUE, discover_labels, find_task, load_examples, load_unlabelled, splits_of
from xtc_jax.data.sources import SUFFIXES, find_split
from xtc_jax.errors import UserError

SST2, MRPC, STSB = GLUE["sst2"], GLUE["mrpc"], GLUE["stsb"]
ONE = {"sentence": ["The kettle sang.", "Rain, again", "“Tea?”"], "label": [1, 0, 1]}
TWO = {"sentence1": ["A dog ran", "Bread rose"], "sentence2": ["The dog ran", "Snow fell"], "label": [1, 0]}


def write(path, columns):
    """The columns as a file of the kind that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = list(zip(*columns.values(), strict=True))
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.table(columns), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
    elif path.suffix == ".tsv":
        path.write_text("\n".join("\t".join(map(str, row)) for row in [tuple(columns), *rows]) + "\n")
    else:
        quoted = [tuple(columns), *(tuple(f'"{x}"' if isinstance(x, str) else x for x in row) for row in rows)]
        path.write_text("\n".join(",".join(map(str, row)) for row in quoted) + "\n")
    return str(path)


def refusal(path, task, split="train"):
    with pytest.raises(UserError) as refused:
        load_examples(str(path), task, split)
    return str(refused.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_one_text_column_is_read_from_every_format(tmp_path, suffix):
    path = write(tmp_path / f"x{suffix}", ONE)
    examples = load_examples(path, SST2, "train")
    assert examples.texts == [("The kettle sang.",), ("Rain, again",), ("“Tea?”",)]
    np.testing.assert_array_equal(examples.labels, [1, 0, 1])
    assert examples.labels.dtype == np.int32
    assert examples.where == path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_two_text_columns_are_read_from_every_format(tmp_path, suffix):
    examples = load_examples(write(tmp_path / f"x{suffix}", TWO), MRPC, "train")
    assert examples.texts == [("A dog ran", "The dog ran"), ("Bread rose", "Snow fell")]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_labels_may_be_class_names(tmp_path, suffix):
    path = write(tmp_path / f"x{suffix}", {**ONE, "label": ["positive", "negative", "positive"]})
    np.testing.assert_array_equal(load_examples(path, SST2, "train").labels, [1, 0, 1])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_regression_reads_numbers(tmp_path, suffix):
    examples = load_examples(write(tmp_path / f"x{suffix}", {**TWO, "label": [3.75, 0]}), STSB, "train")
    np.testing.assert_array_equal(examples.labels, np.array([3.75, 0], np.float32))
    assert examples.labels.dtype == np.float32


@pytest.mark.parametrize("labels", [[1.0, 0.0, 1.0], [True, False, True]], ids=["floats", "bools"])
def test_class_ids_may_be_whole_floats_or_truth_values(tmp_path, labels):
    path = write(tmp_path / "x.parquet", {**ONE, "label": labels})
    np.testing.assert_array_equal(load_examples(path, SST2, "train").labels, [1, 0, 1])


def test_columns_that_the_task_does_not_name_are_ignored(tmp_path):
    path = write(tmp_path / "x.jsonl", {"idx": [7, 8, 9], **ONE})
    assert len(load_examples(path, SST2, "train").texts) == 3


def test_a_tsv_has_no_quotes_as_glue_writes_it(tmp_path):
    (tmp_path / "x.tsv").write_text('sentence\tlabel\n"Half a quote\t1\nSay "yes"\t0\n')
    examples = load_examples(str(tmp_path / "x.tsv"), SST2, "train")
    assert examples.texts == [('"Half a quote',), ('Say "yes"',)]


def test_a_quoted_csv_field_may_hold_a_line_break(tmp_path):
    (tmp_path / "x.csv").write_text('sentence,label\n"Two\nlines",1\n')
    assert load_examples(str(tmp_path / "x.csv"), SST2, "train").texts == [("Two\nlines",)]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("texts", [["007", "12.50"], ["true", "false"], ["2020-01-01", "1999-12-31"]])
def test_text_that_looks_like_numbers_or_dates_stays_as_it_was_written(tmp_path, suffix, texts):
    delimiter = "\t" if suffix == ".tsv" else ","
    (tmp_path / f"x{suffix}").write_text("\n".join([f"sentence{delimiter}label", *(f"{t}{delimiter}1" for t in texts)]))
    assert load_examples(str(tmp_path / f"x{suffix}"), SST2, "train").texts == [(text,) for text in texts]


@pytest.mark.parametrize("where", ["sst2/train", "train"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_directory_holds_the_split_itself_or_under_the_task(tmp_path, where, suffix):
    path = tmp_path / f"{where}{suffix}"
    write(path, ONE)
    write(tmp_path / "sst2" / "validation.csv", TWO)
    assert find_split(str(tmp_path), SST2, "train") == path


def test_a_file_under_the_task_wins(tmp_path):
    write(tmp_path / "train.parquet", ONE)
    write(tmp_path / "sst2" / "train.csv", ONE)
    assert find_split(str(tmp_path), SST2, "train") == tmp_path / "sst2" / "train.csv"


def test_a_file_serves_every_split(tmp_path):
    path = tmp_path / "mine.csv"
    write(path, ONE)
    assert find_split(str(path), SST2, "validation") == path


@pytest.mark.parametrize("path", ["", "nowhere", "nowhere.csv"])
def test_a_split_that_is_not_there_is_refused_with_what_was_expected(tmp_path, path):
    message = refusal(tmp_path / path, SST2, "validation")
    assert message == f"{tmp_path / path}: no validation data; expected sst2/validation.parquet (or csv, tsv, jsonl) inside it"


@pytest.mark.parametrize("missing", ["sentence1", "sentence2", "label"])
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path, missing):
    columns = {name: values for name, values in TWO.items() if name != missing}
    path = write(tmp_path / "x.csv", columns)
    assert refusal(path, MRPC) == f"{path}: no column {missing!r}; it has {', '.join(columns)}"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_empty_file_is_called_empty(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.touch()
    assert refusal(path, SST2) == f"{path}: the file is empty"


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv"])
def test_a_file_without_rows_is_refused(tmp_path, suffix):
    path = write(tmp_path / f"x{suffix}", {"sentence": pa.array([], pa.string()), "label": pa.array([], pa.int32())})
    assert refusal(path, SST2) == f"{path}: the file holds no examples"


@pytest.mark.parametrize("label", [2, -1, 0.5, "neutral", float("inf")], ids=str)
def test_a_label_outside_the_range_is_named_by_row_with_the_known_ones(tmp_path, label):
    labels = ["positive", label] if isinstance(label, str) else [1, label]
    path = write(tmp_path / "x.parquet", {"sentence": ["Fine.", "Hm."], "label": labels})
    shown = float(label) if isinstance(label, float) else label
    assert refusal(path, SST2) == (
        f"{path}: row 2, column 'label': label {shown!r} is outside the task's range (0=negative, 1=positive)"
    )


REMEDY = "fill it in, delete the row, or drop all such rows with config.data.missing='drop'"


@pytest.mark.parametrize("task", [SST2, STSB], ids=["class", "number"])
@pytest.mark.parametrize("value", [None, float("nan")], ids=str)
def test_a_label_that_is_missing_is_named_by_row(tmp_path, value, task):
    columns = {**TWO, "sentence": ["Fine.", "Hm."], "label": [1.0, value]}
    path = write(tmp_path / "x.parquet", columns)
    assert refusal(path, task) == f"{path}: row 2, column 'label' is empty ({value!r}): {REMEDY}"


def test_a_number_that_is_not_finite_is_named_by_row(tmp_path):
    path = write(tmp_path / "x.parquet", {**TWO, "label": [2.5, float("inf")]})
    assert refusal(path, STSB) == f"{path}: row 2, column 'label': inf is not a number"


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_text_or_label_of_a_csv_or_tsv_is_named_by_row_and_column(tmp_path, suffix, blank):
    mark = "\t" if suffix == ".tsv" else ","
    for column, row in (("sentence", f"{blank}{mark}1"), ("label", f"Fine.{mark}{blank}")):
        path = tmp_path / f"{column}{suffix}"
        path.write_text(f"sentence{mark}label\nGood.{mark}0\n{row}\n")
        assert refusal(path, SST2) == f"{path}: row 2, column {column!r} is empty ({blank!r}): {REMEDY}"
        examples = load_examples(str(path), SST2, "train", "drop")
        assert (examples.texts, examples.labels.tolist(), examples.dropped) == ([("Good.",)], [0], 1)


@pytest.mark.parametrize("word", ["NA", "NaN", "null"])
def test_a_word_for_a_missing_value_is_no_class_unless_it_is_named_as_one(tmp_path, word):
    path = tmp_path / "train.csv"
    path.write_text(f"sentence,label\nOne.,good\nTwo.,bad\nThree.,{word}\n")
    found, named = (find_task("custom", text=("sentence",), labels=labels) for labels in ((), ("bad", "good", word)))
    with pytest.raises(UserError) as refused:
        discover_labels(str(path), found)
    assert str(refused.value) == (
        f"{path}: row 3, column 'label' is empty ({word!r}): {REMEDY}; if {word!r} is a class, name it in config.data.labels"
    )
    assert discover_labels(str(path), found, "drop") == ("bad", "good")
    assert load_examples(str(path), named, "train").labels.tolist() == [1, 0, 2]


@pytest.mark.parametrize("word", ["NA", "null", "nan"])
def test_a_text_may_be_a_word_for_a_missing_value(tmp_path, word):
    (tmp_path / "x.csv").write_text(f"sentence,label\n{word},1\n")
    assert load_examples(str(tmp_path / "x.csv"), SST2, "train").texts == [(word,)]


def test_nan_in_parquet_is_no_class(tmp_path):
    path = write(tmp_path / "train.parquet", {"sentence": ["One.", "Two.", "Three."], "label": [0.0, 1.0, float("nan")]})
    with pytest.raises(UserError, match=r"row 3, column 'label' is empty \(nan\)"):
        discover_labels(path, find_task("custom", text=("sentence",)))


def test_dropped_rows_are_counted_and_later_rows_keep_their_numbers(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("sentence,label\n,1\nGood.,1\nBad.,\nFine.,0\n")
    examples = load_examples(str(path), SST2, "train", "drop")
    assert (examples.rows.tolist(), examples.dropped) == ([1, 3], 2)
    path.write_text("sentence,label\n,1\nGood.,1\nBad.,\nFine.,7\n")
    with pytest.raises(UserError, match="row 4, column 'label': label '7' is outside"):
        load_examples(str(path), SST2, "train", "drop")


def test_a_file_of_missing_values_alone_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("sentence,label\n,1\n")
    with pytest.raises(UserError, match="no row has all of its texts and its label"):
        load_examples(str(tmp_path / "x.csv"), SST2, "train", "drop")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("labels", [("true", "false"), ("False", "True"), ("TRUE", "FALSE")], ids=str)
def test_a_truth_value_is_the_class_of_its_name(tmp_path, suffix, labels):
    columns = {"sentence": ["One.", "Two.", "Three."], "label": [True, False, True]}
    path = write(tmp_path / f"x{suffix}", columns)
    found = load_examples(path, find_task("custom", text=("sentence",), labels=labels), "train").labels
    assert [labels[i].casefold() for i in found] == ["true", "false", "true"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_truth_value_is_no_class_of_three(tmp_path, suffix):
    path = write(tmp_path / f"x{suffix}", {"sentence": ["One."], "label": [True]})
    assert "row 1, column 'label': label" in refusal(path, find_task("custom", text=("sentence",), labels=("a", "b", "c")))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_classes_of_truth_values_are_discovered_and_found_again(tmp_path, suffix):
    path = write(tmp_path / f"train{suffix}", {"sentence": ["One.", "Two.", "Three."], "label": [True, False, True]})
    labels = discover_labels(path, find_task("custom", text=("sentence",)))
    assert labels == ("False", "True")
    found = load_examples(path, find_task("custom", text=("sentence",), labels=labels), "train").labels
    assert found.tolist() == [1, 0, 1]


@pytest.mark.parametrize("labels", [["1", "2", "1.0"], ["good", "bad", " good"]], ids=str)
def test_two_discovered_classes_that_are_one_are_refused(tmp_path, labels):
    path = write(tmp_path / "train.parquet", {"sentence": ["One.", "Two.", "Three."], "label": labels})
    with pytest.raises(UserError, match=r"column 'label' has the classes .*, which are one; write them alike"):
        discover_labels(path, find_task("custom", text=("sentence",)))


@pytest.mark.parametrize("value", ["1_0", "\u0661", "1e999", "0x1", "one"])
def test_what_python_takes_for_a_number_and_no_table_does_is_refused(tmp_path, value):
    path = write(tmp_path / "x.jsonl", {**TWO, "label": ["2.5", value]})
    assert refusal(path, STSB) == f"{path}: row 2, column 'label': {value!r} is not a number"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_text_of_three_megabytes_is_read_whole(tmp_path, suffix):
    long = "word " * 600_000 + "end"
    path = write(tmp_path / f"x{suffix}", {"sentence": ["Short.", long, "Short."], "label": [1, 0, 1]})
    assert load_examples(path, SST2, "train").texts == [("Short.",), (long,), ("Short.",)]


@pytest.mark.parametrize("name", ["sentence", "label"])
def test_a_column_that_stands_twice_in_a_csv_is_named(tmp_path, name):
    (tmp_path / "x.csv").write_text(f"sentence,label,{name}\nFine.,1,0\n")
    assert (
        refusal(tmp_path / "x.csv", SST2) == f"{tmp_path / 'x.csv'}: column {name!r} stands in it twice; rename or remove one"
    )


def test_a_text_of_a_jsonl_that_looks_like_a_time_stays_as_it_was_written(tmp_path):
    path = write(tmp_path / "x.jsonl", {"sentence": ["2020-01-01T00:00:00", "1999-12-31 10:00:00"], "label": [1, 0]})
    assert load_examples(path, SST2, "train").texts == [("2020-01-01T00:00:00",), ("1999-12-31 10:00:00",)]


@pytest.mark.parametrize("values", [[b"bytes"], [1.5], [["a"]], [True]], ids=["bytes", "numbers", "lists", "truth values"])
def test_a_text_column_of_another_type_is_refused_with_its_type(tmp_path, values):
    path = write(tmp_path / "x.parquet", {"sentence": values, "label": [1]})
    assert refusal(path, SST2).startswith(f"{path}: column 'sentence' holds ")


def test_one_example_in_ten_of_a_file_is_held_out_by_its_text_alone(tmp_path):
    texts = [f"Sentence number {i}." for i in range(400)] * 2
    path = write(tmp_path / "x.parquet", {"sentence": texts, "label": [0, 1] * 400})
    parts = {part: load_examples(path, SST2, "train", part=part) for part in ("", "train", "validation")}
    train, validation = (set(parts[part].texts) for part in ("train", "validation"))
    assert train | validation == set(parts[""].texts)
    assert not train & validation
    assert 25 <= len(validation) <= 55  # of 400 distinct ones
    assert len(parts["train"].labels) == 2 * len(train)
    assert parts["train"].labels.tolist() == (parts["train"].rows % 2).tolist()


def test_a_file_that_is_too_short_to_be_split_is_refused(tmp_path):
    path = write(tmp_path / "x.csv", {"sentence": ["Fine."], "label": [1]})
    with pytest.raises(UserError, match=r"one example in ten is held out .* none for validation; set config\.data\.validation"):
        load_examples(path, SST2, "train", part="validation")


def test_a_word_is_not_a_number(tmp_path):
    path = write(tmp_path / "x.jsonl", {**TWO, "label": ["2.5", "much"]})
    assert refusal(path, STSB) == f"{path}: row 2, column 'label': 'much' is not a number"


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_null_text_is_named_by_row_and_column(tmp_path, suffix):
    path = write(tmp_path / f"x{suffix}", {**TWO, "sentence2": ["Here", None]})
    assert refusal(path, MRPC) == f"{path}: row 2, column 'sentence2' is empty (None): {REMEDY}"


@pytest.mark.parametrize("name", ["x.txt", "x.json", "x"])
def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path, name):
    (tmp_path / name).write_text("sentence,label\n")
    assert refusal(tmp_path / name, SST2) == f"{tmp_path / name}: unknown file type; use one of .parquet, .csv, .tsv, .jsonl"


@pytest.mark.parametrize("keep", [4, 100, -1])
def test_a_damaged_parquet_file_is_refused(tmp_path, keep):
    path = tmp_path / "x.parquet"
    write(path, ONE)
    path.write_bytes(path.read_bytes()[:keep])
    assert refusal(path, SST2).startswith(f"{path}: cannot be read as parquet (")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", b"sentence,label\nFine.,1,2\n"),
        ("x.jsonl", b'{"sentence": "Fine."'),
        ("x.csv", b"sentence,label\n\xff\xfe,1\n"),
    ],
    ids=["too many fields", "broken json", "not UTF-8"],
)
def test_a_damaged_text_file_is_refused_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name, SST2)
    assert message.startswith(f"{tmp_path / name}: ")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["sad", "glad", "sad"], ("glad", "sad")),
        ([10, 9, 10], ("9", "10")),
        ([5, 1, 3], ("1", "3", "5")),
        ([2.5, 1.0, 0.0], ("0.0", "1.0", "2.5")),
        ([1, 0, 1], ("0", "1")),
    ],
    ids=str,
)
def test_the_labels_of_a_custom_task_are_discovered_and_every_example_gets_its_own(tmp_path, values, names):
    path = write(tmp_path / "train.csv", {"sentence": ["One.", "Two.", "Three."], "label": values})
    task = find_task("custom", text=("sentence",))
    assert discover_labels(path, task) == names
    labelled = find_task("custom", text=("sentence",), labels=names)
    assert [names[i] for i in load_examples(path, labelled, "train").labels] == [str(value) for value in values]


def test_a_class_named_by_a_number_is_also_found_by_the_whole_float(tmp_path):
    path = write(tmp_path / "x.parquet", {"sentence": ["One.", "Two."], "label": [2.0, 1.0]})
    labels = load_examples(path, find_task("custom", text=("sentence",), labels=("1", "2")), "train").labels
    np.testing.assert_array_equal(labels, [1, 0])


def test_a_number_that_is_no_discovered_class_is_not_taken_for_an_id(tmp_path):
    path = write(tmp_path / "validation.csv", {"sentence": ["One."], "label": [0]})
    assert "label '0' is outside" in refusal(path, find_task("custom", text=("sentence",), labels=("1", "2", "3")))


def test_discovering_needs_two_classes(tmp_path):
    path = write(tmp_path / "train.csv", {"sentence": ["One.", "Two."], "label": ["same", "same"]})
    with pytest.raises(UserError, match=r"train\.csv: column 'label' has 1 distinct values; a task needs two classes"):
        discover_labels(path, find_task("custom", text=("sentence",)))


def test_discovering_needs_the_column(tmp_path):
    path = write(tmp_path / "train.csv", {"sentence": ["One."], "class": ["a"]})
    with pytest.raises(UserError, match=r"train\.csv: no column 'label'; it has sentence, class"):
        discover_labels(path, find_task("custom", text=("sentence",)))


def test_a_hub_that_does_not_deliver_says_how_to_give_a_local_copy(monkeypatch):
    import datasets

    def offline(*_, **__):
        raise ConnectionError("a long story")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    message = refusal("", SST2)
    assert message == "task sst2: the hub did not deliver (ConnectionError); give a local copy with --config.data.path=DIR"


def test_a_file_is_the_first_split_and_a_directory_or_the_hub_has_them_all(tmp_path):
    splits = GLUE["mnli"].validation
    file = write(tmp_path / "mine.csv", ONE)
    assert splits_of(file, splits) == ("validation_matched",)
    assert splits_of(str(tmp_path), splits) == splits_of("", splits) == splits_of("pinned:some", splits) == splits


def test_the_splits_of_mnli_are_found_by_their_names(tmp_path):
    for split, label in (("validation_matched", 0), ("validation_mismatched", 2)):
        write(
            tmp_path / "mnli" / f"{split}.parquet", {"premise": ["It rains."], "hypothesis": ["It is wet."], "label": [label]}
        )
        examples = load_examples(str(tmp_path), GLUE["mnli"], split)
        assert (examples.texts, examples.labels.tolist()) == ([("It rains.", "It is wet.")], [label])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("label", [{}, {"label": [-1, -1]}], ids=["no column", "minus one"])
def test_a_test_split_is_read_without_labels(tmp_path, suffix, label):
    texts = {name: values for name, values in TWO.items() if name != "label"}
    path = write(tmp_path / f"test{suffix}", {"idx": [7, 3], **texts, **label})
    examples = load_unlabelled(path, MRPC, "test")
    assert examples.texts == [("A dog ran", "The dog ran"), ("Bread rose", "Snow fell")]
    assert (examples.index.tolist(), examples.index.dtype, examples.where) == ([7, 3], np.int64, path)


def test_without_an_index_column_the_rows_are_counted_from_zero(tmp_path):
    assert load_unlabelled(write(tmp_path / "x.csv", ONE), SST2, "test").index.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"text": ["One."]}, "no column 'sentence'; it has text"),
        ({"sentence": ["One.", None]}, "row 2, column 'sentence' is empty; every row must have an answer"),
        ({"sentence": ["One.", "Two."], "idx": [0, 0.5]}, "row 1, column 'idx': 0.0 is not a whole number"),
        ({"sentence": ["One."], "idx": [None]}, "row 1, column 'idx': None is not a whole number"),
    ],
    ids=["column", "text", "fraction", "nothing"],
)
def test_a_test_split_that_cannot_be_answered_is_refused(tmp_path, columns, complaint):
    path = write(tmp_path / "test.parquet", columns)
    with pytest.raises(UserError) as refused:
        load_unlabelled(path, SST2, "test")
    assert str(refused.value) == f"{path}: {complaint}"


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "train", "validation"),
    [("sst2", 67349, 872), ("cola", 8551, 1043), ("mrpc", 3668, 408), ("stsb", 5749, 1500)],
)
def test_the_glue_splits_are_read_whole(shared, name, train, validation):
    task = GLUE[name]
    for split, count in (("train", train), ("validation", validation)):
        examples = load_examples(str(shared / "glue"), task, split)
        assert len(examples.texts) == len(examples.labels) == count
        assert {len(text) for text in examples.texts} == {len(task.text)}
        low, high = (0, 5) if task.regression else (0, 1)
        assert (examples.labels.min(), examples.labels.max()) == (low, high)
