from __future__ import annotations

import pytest
from datasets import Dataset, Features, Image, Value

from hf_elmix.columns import IMAGES, TABLE, TEXT, columns_of, find_label
from hf_elmix.errors import UsageError

SENTENCES = [f"the film number {k} was superb" for k in range(20)]


def kind_of(**columns) -> str:
    return columns_of(Dataset.from_dict({**columns, "label": [0, 1] * 10}), "label").kind


def test_what_rows_are_taken_for():
    numbers, written = [0.5 * k for k in range(20)], [str(k) for k in range(20)]
    colours, places = ["red", "dark blue"] * 10, ["north", "south"] * 10
    assert kind_of(a=numbers) == TABLE
    assert kind_of(a=written, b=["true", "FALSE"] * 10) == TABLE  # all cells of a CSV file are text
    assert kind_of(a=[*written[:-1], "?"]) == TABLE  # a mistake, which is reported where the numbers are read
    assert kind_of(a=[*written[:-1], None], colour=colours) == TABLE
    assert kind_of(a=colours, b=places, c=colours) == TABLE
    assert kind_of(text=SENTENCES) == kind_of(text=SENTENCES, stars=numbers) == TEXT
    assert kind_of(text=SENTENCES, colour=colours, stars=numbers) == TEXT
    assert kind_of(word=colours) == kind_of(first=colours, second=places) == TEXT  # short texts, not three categories
    assert kind_of(word=[f"word{k}" for k in range(20)], stars=numbers) == TEXT  # each row has another word
    images = Dataset.from_dict({"image": [None], "size": [3]}, Features(image=Image(), size=Value("int64")))
    assert columns_of(images, "label").kind == IMAGES


def test_what_is_no_feature():
    rows = Dataset.from_dict(
        {
            "Unnamed: 0": ["0", "1"],
            "idx": [7, 8],
            "label_text": ["up", "down"],
            "vector": [[0.5], [1.5]],
            "age": [30, 40],
            "target": [0, 1],
        }
    )
    found = columns_of(rows, "target")
    assert found.rest == ("Unnamed: 0", "idx", "label_text", "vector")
    assert (found.numbers, found.texts, found.categories, found.images) == (("age",), (), (), ())


def test_the_column_of_labels():
    rows = Dataset.from_dict({"x": [1], "labels": [0]})
    assert find_label(rows, None, "mine") == "labels"
    assert find_label(rows, "x", "mine") == "x"
    with pytest.raises(UsageError, match="Expected a column 'y' in mine, but it has x, labels. Name the column of"):
        find_label(rows, "y", "mine")
