from __future__ import annotations

import json
import os

import pandas as pd
import pytest
from datasets import Dataset

from hf_elmix import UsageError
from hf_elmix.text.files import read_files

ROWS = [
    {"text": 'a "quoted", text', "label": "NA"},
    {"text": "None", "label": "fine"},
    {"text": "the third\trow", "label": "fine"},
]


def write(path, kind):
    if kind == "json":
        path.write_text("\n".join(map(json.dumps, ROWS)))
    elif kind == "list.json":
        path.write_text(json.dumps(ROWS))
    elif kind == "parquet":
        Dataset.from_list(ROWS).to_parquet(path)
    else:
        import csv

        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"], delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(ROWS)
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "list.json", "jsonl", "parquet"])
def test_files(tmp_path, kind):
    """Words such as NA and None are text, not missing values."""
    path = write(tmp_path / f"rows.{kind}", "json" if kind == "jsonl" else kind)
    assert read_files({"train": path})["train"].to_list() == ROWS


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "a", r"Expected a file that ends in \.csv, \.tsv"),
        ("nosuch.csv", None, "does not exist"),
        ("a.json", "{", "Cannot load"),
        ("a.parquet", "PAR1", "Cannot load"),
        ("a.csv", "", "Cannot load"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        read_files({"train": str(tmp_path / name)})
    assert "\n" not in str(error.value)


def read(path, content, kind="csv"):
    path = path / f"rows.{kind}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_files({"train": str(path)})["train"]


def test_cells_are_text_as_they_are_written(tmp_path):
    """No type depends on what else is in a column."""
    texts = ["true", "null", "007", "1.50", "2020-01-01", " a ", "nan"]
    assert read(tmp_path, "text,n\n" + "".join(f"{text},1\n" for text in texts))["text"][:] == texts
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    assert read(tmp_path, lines, "jsonl")["text"][:] == texts


def test_an_empty_cell_is_missing(tmp_path):
    assert read(tmp_path, "text,label\na,\n,b\n").to_list() == [
        {"text": "a", "label": None},
        {"text": None, "label": "b"},
    ]


def test_the_index_of_pandas_has_no_name(tmp_path):
    pd.DataFrame({"text": ["a", "b"]}).to_csv(tmp_path / "a.csv")
    assert read_files({"train": str(tmp_path / "a.csv")})["train"].column_names == ["Unnamed: 0", "text"]


def test_categories_of_pandas_are_words(tmp_path):
    pd.DataFrame({"text": ["a", "b"], "label": pd.Categorical(["x", "y"])}).to_parquet(tmp_path / "a.parquet")
    assert read_files({"train": str(tmp_path / "a.parquet")})["train"]["label"][:] == ["x", "y"]


def test_a_file_of_the_same_size_and_time_is_another_file(tmp_path):
    for text in ("abc", "xyz"):
        (tmp_path / "rows.csv").write_text(f"text\n{text}\n")
        os.utime(tmp_path / "rows.csv", (1.7e9, 1.7e9))
        assert read_files({"train": str(tmp_path / "rows.csv")})["train"]["text"][:] == [text]


def test_another_encoding_is_refused_with_its_line_alone(tmp_path):
    with pytest.raises(
        UsageError, match="Cannot load .*: line 3 is not in UTF-8. Save it as UTF-8. Expected a CSV file"
    ):
        read(tmp_path, "text\na\né\n".encode("latin-1"))


@pytest.mark.parametrize(
    ("values", "column"),
    [
        (["true", '"maybe"'], ["true", "maybe"]),  # as a CSV file with these words
        (["true", "false"], [True, False]),
        (["1", '"1"', "null"], ["1", "1", None]),
        (["1", "2.5"], [1.0, 2.5]),
        (["[1]", "[1, 2]"], [[1], [1, 2]]),
    ],
)
def test_json_of_several_types(tmp_path, values, column):
    assert read(tmp_path, "".join(f'{{"label": {value}}}\n' for value in values), "json")["label"][:] == column


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"a": 1}\n\n{"a": \n', "line 3 is not JSON"),
        ('{"a": 1}\n[1]\n', "line 2 is not an object with the names of columns"),
        ('{"a": 1}\n{"a": 1, "a": 2}\n', "line 2 is not JSON .an object has the name 'a' twice"),
        ('{"a": 1}\n{"a": [1]}\n', "line 2 has a list or an object in 'a'"),
        ('{"a": "x"}\n{"a": "\\ud800"}\n', "line 2 has half a character"),
        ('[{"a": 1}, 2]', "row 1 is not an object"),
        ("\n", "it has no rows"),
        ('{"a": ' + "[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_json_that_does_not_fit_is_refused_with_its_line(tmp_path, lines, message):
    with pytest.raises(UsageError, match=message) as error:
        read(tmp_path, lines, "jsonl")
    assert "\n" not in str(error.value)
