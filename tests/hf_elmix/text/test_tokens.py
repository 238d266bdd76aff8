from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from transformers import AutoConfig, ByT5Tokenizer

from glue_runs.tasks import TASKS
from hf_elmix.errors import UsageError
from hf_elmix.text import tokens as module
from hf_elmix.text.models import load_tokenizer
from hf_elmix.text.rows import load_task
from hf_elmix.text.tokens import count_tokens, tokenise


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


@pytest.mark.slow
def test_another_process_reads_the_same_tokens(glue, encoder):
    folder, task = glue("rte"), TASKS["rte"]
    made = files(tokenise(load_task(task, folder), task, load_tokenizer(encoder), 12))
    before = [path.stat().st_mtime_ns for path in made]
    drafts = set(made[0].parent.glob("*-*"))
    code = "import sys; from hf_elmix.text.rows import *; from hf_elmix.text.tasks import *\n"
    code += "from hf_elmix.text.models import load_tokenizer; from hf_elmix.text.tokens import tokenise\n"
    code += f"task = {task!r}\n"
    code += "tokenise(load_task(task, sys.argv[1]), task, load_tokenizer(sys.argv[2]), 12)"
    subprocess.run([sys.executable, "-c", code, folder, encoder], check=True)
    assert [path.stat().st_mtime_ns for path in made] == before
    assert set(made[0].parent.glob("*-*")) <= drafts


def test_tokens_are_made_once(glue, encoder):
    """The same tokens are read from the cache; others get files of their own."""
    task = TASKS["rte"]
    rows, tokenizer = load_task(task, glue("rte")), load_tokenizer(encoder)
    made = files(tokenise(rows, task, tokenizer, 12))
    before = [path.stat().st_mtime_ns for path in made]
    tokenizer(["a call with other settings"], padding="max_length", max_length=3, truncation=True)
    assert files(tokenise(rows, task, tokenizer, 12)) == made
    assert [path.stat().st_mtime_ns for path in made] == before
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

    monkeypatch.setattr(module.os, "replace", stop)
    folder = Path(module.HF_DATASETS_CACHE, "hf_elmix")
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


def test_rows_without_labels_are_tokenised(glue, good_rows, encoder):
    rows = good_rows("cola")
    test = [{name: value for name, value in row.items() if name != "label"} for row in rows]
    loaded = load_task(TASKS["cola"], glue("cola", test=test), splits=("test",))
    tokens = tokenise(loaded, TASKS["cola"], load_tokenizer(encoder), 64)["test"]
    assert set(tokens.column_names) == {"input_ids", "token_type_ids", "attention_mask"}


CONFIGS = {kind: AutoConfig.for_model(kind) for kind in ("bert", "roberta", "deberta", "xlm-roberta", "t5", "mpnet")}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_model_without_a_tokenizer_is_refused(glue, tmp_path, kind):
    """For which transformers makes a tokenizer that knows no word."""
    CONFIGS[kind].save_pretrained(tmp_path / "model")
    tokenizer, rows = load_tokenizer(str(tmp_path / "model")), load_task(TASKS["rte"], glue("rte"))
    with pytest.raises(UsageError, match="tokenizer of '.*model'") as error:
        tokenise(rows, TASKS["rte"], tokenizer, 12)
    assert "\n" not in str(error.value)


def with_unknown_words(count: int) -> DatasetDict:
    """Twenty words in a split, of which some are unknown."""
    texts = ["the dog sleeps ."] * (5 - count) + ["the dog sleeps xyzzy"] * count
    return DatasetDict(train=Dataset.from_dict({"sentence": texts, "label": [0] * 5}))


def test_a_tokenizer_that_knows_few_words_is_refused(encoder):
    sentences = ["der hund schlaeft tief sehr lange heute nacht hier a", ""]
    rows = DatasetDict(test=Dataset.from_dict({"sentence": sentences}))
    message = (
        r"90 % of the tokens in the split 'test' \(first 2 rows\) are unknown to it, so .* Check that the model has"
    )
    with pytest.raises(UsageError, match=message.replace(" %", "%")):
        tokenise(rows, TASKS["cola"], load_tokenizer(encoder), 12)


def test_some_unknown_words_are_a_warning_and_few_are_none(encoder, recwarn):
    tokenise(with_unknown_words(1), TASKS["cola"], load_tokenizer(encoder), 12)
    assert not recwarn
    with pytest.warns(UserWarning, match=r"10% of the tokens in the split 'train' \(first 5 rows\) are unknown"):
        tokenise(with_unknown_words(2), TASKS["cola"], load_tokenizer(encoder), 12)


def test_the_generated_rows_are_known(pocket, encoder, recwarn):
    for task in TASKS.values():
        tokenise(load_task(task, pocket), task, load_tokenizer(encoder), 64)
    assert not recwarn


def test_a_tokenizer_without_an_unknown_token_knows_all_words(glue, tmp_path):
    tokenizer = ByT5Tokenizer()
    tokenizer.unk_token = None
    assert tokenizer.unk_token_id is None
    tokens = tokenise(load_task(TASKS["cola"], glue("cola")), TASKS["cola"], tokenizer, 12)
    assert len(tokens["train"]) == 12
