from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from hf_elmix.errors import UsageError
from hf_elmix.reviews.data import read_reviews
from hf_elmix.reviews.protocol import LABEL_COLUMN, TEXT_COLUMN

OWN = {"text_column": "text", "label_column": "label"}
SPLITS = ("train", "validation", "test")


def test_a_tenth_of_each_class_is_for_validation_and_as_much_for_the_test(reviews):
    counts = {split: np.bincount(rows.labels).tolist() for split, rows in reviews.rows.items()}
    assert counts == {"train": [48, 48], "validation": [6, 6], "test": [6, 6]}
    assert reviews.classes == ("bad", "good")


def test_the_division_is_always_the_same(reviews, reviews_file):
    assert read_reviews(str(reviews_file), **OWN).digests == reviews.digests


def test_no_row_is_in_two_splits(frame, tmp_path):
    numbered = frame.assign(text=[f"{text} number{row}" for row, text in enumerate(frame["text"])])
    numbered.to_parquet(tmp_path / "mine.parquet", index=False)
    found = read_reviews(str(tmp_path / "mine.parquet"), **OWN)
    # Words that occur once are unknown, so the rows are told apart by their digests: here by their number alone.
    assert sum(len(rows) for rows in found.rows.values()) == 120


def test_the_vocabulary_are_the_words_that_occur_twice_in_the_training_rows(frame, tmp_path):
    """Counted again with nothing of `tokenizers`."""
    folder = tmp_path / "reviews"
    folder.mkdir()
    parts = {"train": frame[:80], "validation": frame[80:100], "test": frame[100:]}
    odd = pd.DataFrame({"text": ["LOVELY once, twice twice -- it's so so-so", "unseen lovely"], "label": ["good"] * 2})
    parts["train"] = pd.concat([parts["train"], odd[:1]])
    parts["test"] = pd.concat([parts["test"], odd[1:]])
    for split, rows in parts.items():
        rows.to_csv(folder / f"{split}.csv", index=False)
    found = read_reviews(str(folder), **OWN)
    words = [re.findall(r"\w+|[^\w\s]+", text.lower()) for text in parts["train"]["text"]]
    counts = Counter(word for text in words for word in text)
    known = {word for word, count in counts.items() if count > 1} | {"[PAD]", "[UNK]"}
    assert set(found.tokenizer.get_vocab()) == known
    assert {"twice", "so"} <= known
    assert "once" not in known
    ids = found.tokenizer.get_vocab()
    assert found.rows["train"].tokens == [[ids.get(word, ids["[UNK]"]) for word in text] for text in words]
    assert found.rows["test"].tokens[-1] == [ids["[UNK]"], ids["lovely"]]
    assert ids["[PAD]"] == 0


def test_long_reviews_are_cut(reviews_file):
    found = read_reviews(str(reviews_file), **OWN, max_length=3)
    assert max(map(len, found.rows["train"].tokens)) == 3


def test_in_the_papers_data_rows_without_a_text_are_left_out(frame, tmp_path, capsys):
    rows = frame.rename(columns={"text": TEXT_COLUMN}).assign(**{LABEL_COLUMN: [1, 5] * 60}).drop(columns="label")
    rows.loc[:9, TEXT_COLUMN] = None
    rows.to_parquet(tmp_path / "reviews.parquet", index=False)
    found = read_reviews(str(tmp_path / "reviews.parquet"))
    assert sum(len(part) for part in found.rows.values()) == 110
    assert found.classes == ("1", "5")
    assert capsys.readouterr().err == "10 of 120 rows have no text and are left out.\n"


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": {7: None}}, "Expected a text in each row of split 'train' of .*, but row 7 has none (1 such rows)."),
        ({"text": {7: "  "}}, "Expected a text in each row of split '.*' of .*, but row .* has none (1 such rows)."),
        ({"label": dict.fromkeys(range(120), "good")}, "Expected two classes or more"),
        ({"label": {3: None}}, "but row 3 has none (1 rows)"),
        ({"label": dict(enumerate(range(0, 240, 2)))}, "Cannot hold out rows"),
        ({"label": {k: k + 0.5 for k in range(120)}}, "Expected classes as labels"),
    ],
)
def test_rows_that_cannot_be_used(frame, tmp_path, ending, changes, message):
    rows = frame.copy().astype(object)
    for name, cells in changes.items():
        for row, value in cells.items():
            rows.loc[row, name] = value
    rows = rows.infer_objects()
    path = tmp_path / f"mine{ending}"
    rows.to_csv(path, index=False) if ending == ".csv" else rows.to_parquet(path, index=False)
    pattern = re.escape(message).replace(r"\.\*", ".*")
    with pytest.raises(UsageError, match=pattern):
        read_reviews(str(path), **OWN)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "Expected a column 'Review Text' .* has text, label. Name the column of texts with --text_column_name."),
        ({"text_column": "text"}, "Expected a column 'Rating' .* Name the column of labels with --label_column_name."),
        ({"text_column": "text", "label_column": "text"}, "Expected text and labels in different columns"),
    ],
)
def test_columns_must_exist(reviews_file, columns, message):
    with pytest.raises(UsageError, match=message):
        read_reviews(str(reviews_file), **columns)


def test_there_must_be_training_rows(frame, tmp_path):
    (tmp_path / "mine").mkdir()
    frame.to_csv(tmp_path / "mine" / "test.csv", index=False)
    with pytest.raises(UsageError, match="to have the split 'train', but it has test"):
        read_reviews(str(tmp_path / "mine"), **OWN)


def test_a_few_rows_are_too_few(frame, tmp_path):
    frame[:4].to_csv(tmp_path / "mine.csv", index=False)
    with pytest.raises(UsageError, match="Expected 10 rows or more"):
        read_reviews(str(tmp_path / "mine.csv"), **OWN)


def test_a_folder_may_have_a_dot_in_its_name(frame, tmp_path):
    (tmp_path / "mine.v2").mkdir()
    frame.to_csv(tmp_path / "mine.v2" / "train.csv", index=False)
    assert len(read_reviews(str(tmp_path / "mine.v2"), **OWN).rows["test"]) == 12


def test_a_configuration_is_of_a_dataset(frame, tmp_path):
    folder = tmp_path / "mine"
    for name in ("first", "second"):
        (folder / name).mkdir(parents=True)
        frame[: 60 if name == "first" else 100].to_csv(folder / name / "train.csv", index=False)
    configs = [f"- config_name: {name}\n  data_files: {name}/train.csv" for name in ("first", "second")]
    (folder / "README.md").write_text("---\nconfigs:\n{}\n{}\n---\n".format(*configs))
    assert len(read_reviews(str(folder), "second", **OWN).rows["train"]) == 80
    with pytest.raises(UsageError, match="choose one with --dataset_config_name"):
        read_reviews(str(folder), **OWN)


def test_a_file_that_does_not_exist(tmp_path):
    with pytest.raises(UsageError, match="'nowhere.csv' does not exist"):
        read_reviews("nowhere.csv", **OWN)
