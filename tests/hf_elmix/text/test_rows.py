from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from glue_runs.tasks import GLUE_TASKS, TASKS
from hf_elmix import UsageError
from hf_elmix.text import cache
from hf_elmix.text import rows as data
from hf_elmix.text.models import load_tokenizer
from hf_elmix.text.rows import count_tokens, digest, find_task, load_task, revision, tokenise


@pytest.mark.parametrize(
    ("name", "hint"),
    [("cloa", "Did you mean 'cola'?"), ("SST-2", "Did you mean 'sst2'?"), ("stsb", "one of cola, sst2")],
)
def test_unknown_task(name, hint):
    with pytest.raises(UsageError) as error:
        find_task(name)
    assert f"Unknown task {name!r}" in str(error.value)
    assert hint in str(error.value)


def test_all_tasks_of_glue():
    assert find_task("wnli", GLUE_TASKS).labels == ("not_entailment", "entailment")
    with pytest.raises(UsageError, match="Did you mean 'stsb'"):
        find_task("sts-b", GLUE_TASKS)


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


@pytest.mark.parametrize("task", ["cola", "mnli"])
def test_tokenise(glue, encoder, task):
    tokenizer, rows = load_tokenizer(encoder), load_task(TASKS[task], glue(task))
    tokens = tokenise(rows, TASKS[task], tokenizer, max_length=6)
    row, text = tokens["train"][0], rows["train"][0]
    expected = tokenizer(*(text[column] for column in TASKS[task].columns), truncation=True, max_length=6)
    assert row == {**expected, "label": text["label"]}
    assert max(map(len, tokens["train"]["input_ids"])) <= 6
    assert len({len(ids) for ids in tokenise(rows, TASKS[task], tokenizer, 64)["train"]["input_ids"]}) > 1  # unpadded


def files(tokens) -> list[Path]:
    """The files of the splits; splits of equal rows share one."""
    return sorted({Path(part["filename"]) for split in tokens.values() for part in split.cache_files})


def test_tokens_are_made_once(glue, encoder):
    """Asked for again, in this process or another one, they are read; anything else is made for itself."""
    folder, task = glue("rte"), TASKS["rte"]
    rows, tokenizer = load_task(task, folder), load_tokenizer(encoder)
    made = files(tokenise(rows, task, tokenizer, 12))
    drafts = set(made[0].parent.glob("*-*"))
    before = [path.stat().st_mtime_ns for path in made]
    tokenizer(["a call with other settings"], padding="max_length", max_length=3, truncation=True)
    assert files(tokenise(rows, task, tokenizer, 12)) == made
    code = "import sys; from hf_elmix.text.rows import *; from hf_elmix.text.models import load_tokenizer\n"
    code += "task = find_task('rte'); tokenizer = load_tokenizer(sys.argv[2])\n"
    code += "tokenise(load_task(task, sys.argv[1]), task, tokenizer, 12)"
    subprocess.run([sys.executable, "-c", code, folder, encoder], check=True)
    assert [path.stat().st_mtime_ns for path in made] == before
    assert set(made[0].parent.glob("*-*")) <= drafts
    for change in ("length", "tokenizer", "rows", "labels"):
        other, others, length = load_tokenizer(encoder), rows, 12
        if change == "length":
            length = 13
        elif change == "tokenizer":
            other.add_tokens(["sleeps"])
        elif change == "rows":
            others = type(rows)({split: part.select(range(11)) for split, part in rows.items()})
        else:
            others = rows.map(lambda row: {"label": 1 - row["label"]})
        assert not set(files(tokenise(others, task, other, length))) & set(made)


@pytest.mark.parametrize("damage", ["empty", "no Arrow", "half", "rows missing", "zeros"])
def test_damaged_tokens_are_made_again(glue, encoder, damage):
    task, tokenizer = TASKS["cola"], load_tokenizer(encoder)
    rows = load_task(task, glue("cola"))
    tokens = tokenise(rows, task, tokenizer, 7)
    whole, expected = [path.read_bytes() for path in files(tokens)], tokens["train"].to_list()
    for path, content in zip(files(tokens), whole, strict=True):
        path.unlink()  # the old rows are still mapped into memory, and must stay as they are
        if damage == "rows missing":
            Dataset.from_list(expected[:5]).map(lambda row: row, cache_file_name=str(path))
        else:
            broken = {"empty": b"", "no Arrow": b"x" * 100, "half": content[: len(content) // 2]}
            path.write_bytes(broken.get(damage, content[:-900] + bytes(900)))
    again = tokenise(rows, task, tokenizer, 7)
    assert again["train"].to_list() == expected
    assert [path.read_bytes() for path in files(again)] == whole


def test_a_draft_that_was_not_finished_is_no_result(glue, encoder, monkeypatch):
    task, tokenizer = TASKS["cola"], load_tokenizer(encoder)
    rows = load_task(task, glue("cola"))

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache.os, "replace", stop)
    folder = Path(cache.HF_DATASETS_CACHE, "glue_runs")
    before = set(folder.iterdir()) if folder.exists() else set()
    with pytest.raises(KeyboardInterrupt):
        tokenise(rows, task, tokenizer, 5)
    assert set(folder.iterdir()) == before


def test_rows_in_memory_need_no_file(glue, encoder):
    task, tokenizer = TASKS["cola"], load_tokenizer(encoder)
    rows = load_task(task, glue("cola"))
    mapped, held = (tokenise(rows, task, tokenizer, 9, in_memory=kept) for kept in (False, True))
    pickles = [pickle.dumps(mapped), pickle.dumps(held)]
    expected = mapped["train"].to_list()
    for path in files(mapped):
        path.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickles[0])
    assert pickle.loads(pickles[1])["train"].to_list() == expected


def test_count_tokens(glue, encoder):
    task = TASKS["cola"]
    rows = tokenise(load_task(task, glue("cola")), task, load_tokenizer(encoder), 64)["train"]
    assert count_tokens(rows) == sum(map(len, rows["input_ids"]))
    assert count_tokens(rows.select([1, 3])) == sum(len(rows[k]["input_ids"]) for k in (1, 3))


def test_revision(glue):
    rows = load_task(TASKS["cola"], glue("cola"))["train"]
    assert revision(rows) is None
    rows.info.download_checksums = {f"hf://datasets/nyu-mll/glue@{'0a' * 20}/cola/train-0.parquet": {}}
    assert revision(rows) == "0a" * 20


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


def test_a_folder_that_changed_is_read_again(glue, good_rows):
    """`datasets` would answer from its cache, which does not know what is in the files."""
    rows = good_rows("cola")
    first = load_task(TASKS["cola"], glue("cola", train=rows, validation=rows))
    turned = [{**row, "label": 1 - row["label"]} for row in rows]
    second = load_task(TASKS["cola"], glue("cola", train=turned, validation=rows))
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


@pytest.mark.parametrize(("value", "message"), [(None, "got string, 1 rows empty"), (7, "got int64")])
def test_text_that_is_none(glue, good_rows, value, message):
    rows = good_rows("cola")
    for row in rows[3:4] if value is None else rows:
        row["sentence"] = value
    assert message in refusal("cola", glue("cola", train=rows, validation=rows))


def test_labels_that_are_no_numbers(glue, good_rows):
    rows = [{**row, "label": str(row["label"])} for row in good_rows("cola")]
    assert "whole numbers as labels" in refusal("cola", glue("cola", train=rows, validation=rows))


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


def test_rows_without_labels_are_tokenised(glue, good_rows, encoder):
    rows = good_rows("cola")
    test = [{name: value for name, value in row.items() if name != "label"} for row in rows]
    loaded = load_task(TASKS["cola"], glue("cola", test=test), splits=("test",))
    tokens = tokenise(loaded, TASKS["cola"], load_tokenizer(encoder), 64)["test"]
    assert set(tokens.column_names) == {"input_ids", "token_type_ids", "attention_mask"}


@pytest.mark.parametrize(("label", "message"), [(float("nan"), "row 3 has nan"), ("high", "Expected numbers")])
def test_numbers_to_be_met(glue, label, message):
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
    assert "is no folder" in refusal("cola", str(tmp_path / "nowhere"))
    assert "is no folder" in refusal("cola", "./nowhere")
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
    """Said by whoever runs as root, who may read everything."""

    def forbidden(*args, **kwargs):
        raise PermissionError(13, "Permission denied", "train-00000-of-00001.parquet")

    monkeypatch.setattr(data, "load_dataset", forbidden)
    assert "Permission denied" in refusal("cola", glue("cola"))


def test_unknown_dataset_without_a_network():
    assert "Cannot load task cola from 'nobody/nothing'" in refusal("cola", "nobody/nothing")
