from __future__ import annotations

import os
from dataclasses import replace

import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from glue_runs.tasks import GLUE_TASKS, TASKS
from hf_elmix import UsageError
from hf_elmix.text import rows as data
from hf_elmix.text.files import read_files
from hf_elmix.text.rows import digest, load_task, read_dataset, revision, warn_of_unseen
from hf_elmix.text.tasks import TextTask


@pytest.mark.parametrize("name", TASKS)
def test_loads_every_generated_task(pocket, name):
    rows = load_task(TASKS[name], pocket, max_train_samples=7, max_eval_samples=5)
    assert {split: len(dataset) for split, dataset in rows.items()} == {
        "train": 7,
        **dict.fromkeys(TASKS[name].splits, 5),
    }
    whole = load_task(TASKS[name], pocket)
    assert rows["train"].to_list() == whole["train"].to_list()[:7]


def test_a_limit_above_the_rows_keeps_all(glue):
    assert len(load_task(TASKS["cola"], glue("cola"), max_train_samples=1000)["train"]) == 12


def test_revision(glue):
    rows = load_task(TASKS["cola"], glue("cola"))["train"]
    assert revision(rows) is None
    rows.info.download_checksums = {f"hf://datasets/nyu-mll/glue@{'0a' * 20}/cola/train-0.parquet": {}}
    assert revision(rows) == "0a" * 20


def labelled(*labels: int) -> Dataset:
    return Dataset.from_dict({"text": ["a"] * len(labels), "label": labels})


def test_classes_without_a_training_row_are_named_once(recwarn):
    task = TextTask("toy", ("text",), ("a", "b", "c", "d"), ("accuracy",))
    rows = DatasetDict(train=labelled(0, 1, 1), validation=labelled(0, 2, 2, 3), test=labelled(2, 1))
    warn_of_unseen(task, rows)
    (said,) = recwarn
    words = "No training row of toy has the label 'c', 'd', which 4 rows to evaluate have: the model cannot learn it."
    assert str(said.message) == words
    warn_of_unseen(task, DatasetDict(rows, train=labelled(0, 1, 2, 3, 0)))
    warn_of_unseen(task, DatasetDict(validation=labelled(3)))  # nothing is trained
    warn_of_unseen(replace(task, labels=(), metrics=("mse",)), rows)
    assert len(recwarn) == 1


def refusal(task: str, folder: str) -> str:
    with pytest.raises(UsageError) as error:
        load_task(TASKS[task], folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_column(glue, good_rows):
    rows = [{**row, "text": row["sentence1"]} for row in good_rows("mrpc")]
    for row in rows:
        del row["sentence1"]
    message = refusal("mrpc", glue("mrpc", train=rows, validation=rows))
    assert "no sentence1" in message
    assert "it has " in message
    assert "'train' of task mrpc" in message


def test_splits_that_disagree(glue, good_rows):
    rows = [{"text": row["sentence"], "label": row["label"]} for row in good_rows("cola")]
    assert "Couldn't cast sentence: string" in refusal("cola", glue("cola", train=rows, validation=good_rows("cola")))


def test_a_folder_that_changed_is_read_again(glue, good_rows, tmp_path):
    """`datasets` alone would use its cache, because it does not compare the contents of the files."""
    rows = good_rows("cola")
    first = load_task(TASKS["cola"], glue("cola", train=rows, validation=rows))
    turned = [{**row, "label": 1 - row["label"]} for row in rows]
    files = {path: path.stat() for path in (tmp_path / "glue").rglob("*.parquet")}
    folder = glue("cola", train=turned, validation=rows)
    for path, before in files.items():  # as rsync and zip leave it
        assert path.stat().st_size == before.st_size
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = load_task(TASKS["cola"], folder)
    assert [1 - label for label in first["train"]["label"]] == list(second["train"]["label"])
    assert digest(first["train"], TASKS["cola"]) != digest(second["train"], TASKS["cola"])
    assert digest(first["validation"], TASKS["cola"]) == digest(second["validation"], TASKS["cola"])


@pytest.mark.parametrize("label", [2, -1])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_label_out_of_range(glue, good_rows, label, split):
    splits = {"train": good_rows("cola"), "validation": good_rows("cola")}
    splits[split][5]["label"] = label
    message = refusal("cola", glue("cola", **splits))
    assert f"split {split!r}" in message
    assert f"row 5 has {label}" in message
    assert "0 to 1 (unacceptable, acceptable)" in message


@pytest.mark.parametrize(("value", "message"), [(None, "row 3 has none (1 rows)"), (7, "got int64")])
def test_text_that_is_none(glue, good_rows, value, message):
    rows = good_rows("cola")
    for row in rows[3:4] if value is None else rows:
        row["sentence"] = value
    assert message in refusal("cola", glue("cola", train=rows, validation=rows))


def test_labels_go_by_their_names(glue, good_rows):
    """Whether a folder holds class ids, words, or classes that it declares in another order."""
    rows, task = good_rows("cola"), TASKS["cola"]
    ids, names = [row["label"] for row in rows], task.labels
    declared = Dataset.from_list([{**row, "label": 1 - row["label"]} for row in rows])
    for labelled in (
        [{**row, "label": str(row["label"])} for row in rows],
        [{**row, "label": names[row["label"]].upper()} for row in rows],
        declared.cast_column("label", ClassLabel(names=list(names[::-1]))),
        Dataset.from_list(rows).cast_column("label", ClassLabel(names=["0", "1"])),
    ):
        assert load_task(task, glue("cola", train=labelled, validation=labelled))["train"]["label"][:] == ids
    other = [{**row, "label": "fine"} for row in rows]
    message = refusal("cola", glue("cola", train=other, validation=other))
    assert "to be among unacceptable, acceptable, but row 0 has 'fine' (12 such rows)" in message


def test_csv_in_a_folder_is_read_as_a_file_is(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,None\nb,Some\n")
    (tmp_path / "test.csv").write_text("text,label\nc,NA\n")
    rows = read_dataset(str(tmp_path))
    assert rows["train"]["label"][:] == ["None", "Some"]
    assert rows["test"]["label"][:] == ["NA"]
    (tmp_path / "train.csv").write_text("text,label\na,None,\n")
    with pytest.raises(UsageError, match="line 2 has 3 cells"):
        read_dataset(str(tmp_path))


def test_the_readme_of_a_folder_may_declare_separators_and_classes(tmp_path):
    (tmp_path / "train.csv").write_text("text;label\na;NA\n")
    head = "---\nconfigs:\n- config_name: default\n  data_files: train.csv\n  sep: ';'\n---\n"
    (tmp_path / "README.md").write_text(head)
    assert read_dataset(str(tmp_path))["train"].to_list() == [{"text": "a", "label": "NA"}]
    (tmp_path / "train.csv").write_text("text,label\na,b\nc,a\n")
    classes = "    dtype:\n      class_label:\n        names:\n          '0': b\n          '1': a\n"
    head = f"---\ndataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: label\n{classes}---\n"
    (tmp_path / "README.md").write_text(head)
    assert read_dataset(str(tmp_path))["train"]["label"][:] == [0, 1]


def test_empty_split(glue, good_rows):
    empty = Dataset.from_list(good_rows("cola")).select([])
    assert '"validation" corresponds to no data!' in refusal(
        "cola", glue("cola", train=good_rows("cola"), validation=empty)
    )


def test_test_rows_have_labels_where_all_are_known(glue, good_rows):
    rows = good_rows("cola")
    for labels, kept in (([-1] * 12, False), ([0, 1] * 6, True), ([0, None] * 6, False), ([0, -1] * 6, False)):
        test = [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]
        loaded = load_task(TASKS["cola"], glue("cola", train=rows, test=test), splits=("test",), max_predict_samples=7)
        assert list(loaded) == ["test"]
        assert len(loaded["test"]) == 7
        assert ("label" in loaded["test"].column_names) == kept


@pytest.mark.parametrize(
    ("label", "message"), [(float("nan"), "row 3 has nan"), ("high", "to be numbers, but row 0 has 'high'")]
)
def test_labels_of_a_regression(glue, label, message):
    rows = [{"sentence1": "a", "sentence2": "b", "label": float(k)} for k in range(5)]
    task = GLUE_TASKS["stsb"]
    assert load_task(task, glue("stsb", train=rows, validation=rows))["train"]["label"][:] == [0, 1, 2, 3, 4]
    for row in rows[3:4] if isinstance(label, float) else rows:
        row["label"] = label
    with pytest.raises(UsageError, match=message):
        load_task(task, glue("stsb", train=rows, validation=rows))


def test_missing_split(glue, good_rows):
    message = refusal("mnli", glue("mnli", train=good_rows("mnli"), validation_matched=good_rows("mnli")))
    assert "to have the split 'validation_mismatched'" in message
    assert "train, validation_matched" in message


def test_wrong_folder(tmp_path, glue):
    assert "is not a folder" in refusal("cola", str(tmp_path / "nowhere"))
    assert "is not a folder" in refusal("cola", "./nowhere")
    (tmp_path / "empty").mkdir()
    assert "Cannot load task cola" in refusal("cola", str(tmp_path / "empty"))
    assert "Cannot load task rte" in refusal("rte", glue("cola"))


@pytest.mark.parametrize("damage", ["empty", "no Parquet", "half", "zeros within", "a folder"])
def test_unreadable_file(glue, tmp_path, damage):
    folder, file = glue("cola"), tmp_path / "glue/cola/train-00000-of-00001.parquet"
    whole = file.read_bytes()
    middle = whole[:4] + bytes(200) + whole[204:]
    broken = {"empty": b"", "no Parquet": b"PAR1 but not really", "half": whole[:-300], "zeros within": middle}
    file.unlink()
    if damage == "a folder":
        file.mkdir()
    else:
        file.write_bytes(broken[damage])
    assert "Cannot load task cola" in refusal("cola", folder)


def test_a_file_that_may_not_be_read(glue, monkeypatch):
    """Simulated, because root may read every file."""

    def forbidden(*args, **kwargs):
        raise PermissionError(13, "Permission denied", "train-00000-of-00001.parquet")

    monkeypatch.setattr(data, "load_dataset", forbidden)
    assert "Permission denied" in refusal("cola", glue("cola"))


def test_unknown_dataset_without_a_network():
    assert "Cannot load task cola from 'nobody/nothing'" in refusal("cola", "nobody/nothing")


@pytest.mark.parametrize("content", ["", "null", "  \n", "1", '"x"', "\ufeffnull", "null\n{}"])
def test_json_with_which_the_reader_would_end_the_process_is_refused(content, tmp_path):
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(UsageError, match="Cannot load"):
        read_dataset(str(tmp_path))
    with pytest.raises(UsageError, match="Cannot load"):
        read_files({"train": str(tmp_path / "train.json")})


def test_a_dataset_script_is_one_line(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.py").write_text("raise SystemExit(9)")
    with pytest.raises(UsageError, match="Cannot load") as raised:
        read_dataset(str(folder))
    assert len(str(raised.value).splitlines()) == 1
