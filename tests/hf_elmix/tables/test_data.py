from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hf_elmix.errors import UsageError
from hf_elmix.tables.data import read_table, read_tables

SPLITS = ["train"] * 6 + ["validation"] * 2 + ["test"] * 2


def frame(**columns) -> pd.DataFrame:
    base = {"x": np.arange(10.0), "y": np.arange(10) % 3, "label": [0, 1] * 5, "split": SPLITS}
    return pd.DataFrame({**base, **columns})


def saved(rows: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".csv":
        rows.to_csv(path, index=False)
    else:
        rows.to_parquet(path, index=False)
    return path


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_rows_are_divided_as_their_table_says(tmp_path, ending):
    table = read_table(saved(frame(), tmp_path / f"mine{ending}"))
    assert (table.name, table.classes) == ("mine", 2)
    assert {split: len(rows) for split, rows in table.features.items()} == {"train": 6, "validation": 2, "test": 2}
    assert table.features["test"].tolist() == [[8.0, 2.0], [9.0, 0.0]]
    assert table.features["test"].dtype == np.float32
    assert table.labels["test"].tolist() == [0, 1]


def test_other_folds_are_not_features(tmp_path):
    rows = frame(split2=SPLITS[::-1], split3=SPLITS)
    path = saved(rows, tmp_path / "folds.parquet")
    assert read_table(path).features["train"].shape == (6, 2)
    second = read_table(path, split_column="split2")
    assert second.features["test"].tolist() == [[0.0, 0.0], [1.0, 1.0]]
    with pytest.raises(UsageError, match="Expected a column 'split9' in folds.parquet"):
        read_table(path, split_column="split9")


@pytest.mark.parametrize("names", ["0123", ["split\u00b2", "splitter", "2split", "7"]])
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_features_may_have_numbers_as_names(tmp_path, names, ending):
    rows = pd.DataFrame({**{name: np.arange(10) % 4 for name in names}, "label": [0, 1] * 5, "split": SPLITS})
    assert read_table(saved(rows, tmp_path / f"mine{ending}")).features["train"].shape == (6, 4)


def test_without_a_split_each_class_is_divided_alike_and_always_the_same(tmp_path):
    labels = np.array(["a"] * 200 + ["b"] * 40)
    rows = pd.DataFrame({"x": np.arange(240.0), "label": labels})
    table = read_table(saved(rows, tmp_path / "mine.csv"))
    again = read_table(saved(rows, tmp_path / "other.csv"))
    sizes = {split: np.bincount(ids).tolist() for split, ids in table.labels.items()}
    assert sizes == {"train": [120, 24], "validation": [30, 6], "test": [50, 10]}
    assert table.digests() == again.digests()
    values = np.concatenate([table.features[split][:, 0] for split in table.features])
    assert sorted(values) == list(range(240))
    assert table.features["train"][:120, 0].tolist() != list(range(120))  # drawn, not the first ones


@pytest.mark.parametrize(
    ("labels", "ids"),
    [
        (["no", "yes"] * 5, [0, 1] * 5),
        ([7, 3] * 5, [1, 0] * 5),
        ([True, False] * 5, [1, 0] * 5),
        ([2.0, 1.0] * 5, [1, 0] * 5),
    ],
)
def test_classes_are_numbered_by_their_sorted_labels(tmp_path, labels, ids):
    table = read_table(saved(frame(label=labels), tmp_path / "mine.parquet"))
    assert np.concatenate([table.labels[split] for split in ("train", "validation", "test")]).tolist() == ids


def test_features_are_scaled_by_the_training_rows_alone(tmp_path):
    rows = frame(constant=0.1, x=[1.0, 2, 3, 4, 5, 6, 100, 100, 100, 100])
    table = read_table(saved(rows, tmp_path / "mine.csv"), standardize=True)
    train = table.features["train"]
    assert train.mean(0) == pytest.approx(0, abs=1e-6)
    assert train.std(0)[:2] == pytest.approx(1, abs=1e-6)
    assert train[:, 2] == pytest.approx(0, abs=1e-6)  # a constant stays finite, also where its deviation is rounded
    assert table.features["test"][0, 0] == pytest.approx((100 - 3.5) / np.std([1, 2, 3, 4, 5, 6]))


def test_a_class_without_a_training_row_is_named(tmp_path):
    rows = frame().assign(label=["a", "b"] * 5)
    rows.loc[rows["split"] == "test", "label"] = "c"
    with pytest.warns(UserWarning, match=r"No training row of t.parquet has the label 'c' \(\d other rows"):
        read_table(saved(rows, tmp_path / "t.parquet"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop(columns="label"), "Expected a column 'label' in bad.parquet, but it has x, y, split"),
        (lambda rows: rows.assign(label=1), "two classes or more in bad.parquet, but got 1"),
        (lambda rows: rows.assign(label=[None, *rows["label"][1:]]), "a label in each row of bad.parquet, but row 0"),
        (lambda rows: rows.assign(x=[*rows["x"][:9], np.inf]), "row 9 has inf in the column 'x'"),
        (lambda rows: rows.assign(x=[np.nan, *rows["x"][1:]]), "row 0 has nan in the column 'x'"),
        (lambda rows: rows.assign(x=[1e300, *rows["x"][1:]]), r"row 0 has 1e\+300 in the column 'x'"),
        (lambda rows: rows.assign(city="Rome"), "numbers in the column 'city' of bad.parquet, but got .*'Rome'"),
        (lambda rows: rows.rename(columns={"x": "Unnamed: 0"}), "a name for each column of bad.parquet"),
        (lambda rows: rows[["label", "split"]], "a column of numbers beside the labels"),
        (lambda rows: rows.assign(split="train"), "it has none to 'validation'"),
        (lambda rows: rows.assign(split=[*SPLITS[:9], "dev"]), "in the column 'split' of bad.parquet, but got 'dev'"),
        (lambda rows: rows.iloc[:0], "two classes or more in bad.parquet, but got 0"),
        (
            lambda rows: rows.assign(label=[0.5, *rows["label"][1:]]),
            "as labels in bad.parquet, but row 0 has the number",
        ),
        (
            lambda rows: rows.assign(label=[[1], [2]] * 5),
            "one class as the label of each row of bad.parquet, but row 0",
        ),
        (
            lambda rows: rows.assign(label=[" Yes", *["no", "yes"] * 4, "no"]),
            "row 2 has 'yes', and other rows .*' Yes'",
        ),
        (
            lambda rows: rows.assign(label=["caf\u00e9", *["tea", "cafe\u0301"] * 4, "tea"]),
            "row 2 has 'cafe\u0301', and other rows .*'caf\u00e9'",
        ),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(tmp_path, change: Callable, message):
    path = saved(change(frame()), tmp_path / "bad.parquet")
    with pytest.raises(UsageError, match=message) as caught:
        read_table(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["broken.parquet", "empty.csv"])
def test_a_file_that_is_no_table_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UsageError, match="Cannot read the table"):
        read_table(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y,label\n1,2,0\n3,4\n", "line 3 has 2 cells, and the header 3"),
        ("x,label,label\n0.5,1,1\n0.25,0,0\n", "line 1 names the column 'label' twice"),
        ("x,x,label\n0.5,1,1\n0.25,0,0\n", "line 1 names the column 'x' twice"),
        ("x,label\n0.5,1,0\n0.25,0,1\n", "line 2 has 3 cells, and the header 2"),
        ('x,label\n1,"a\n2,b\n3,c\n4,"\n5,a\n', "row 0 has a line break in it"),
        ("x\0,label\n1,0\n2,1\n", "line 1 has a NUL character"),
        ("x,label\n1,01\n2,2\n3,1\n", "row 2 has '1', and other rows have '01'"),
        ("x,label\n1,1e0\n2,1\n3,2\n", "row 1 has '1', and other rows have '1e0'"),
        ("x,label\n1,true\n2,True\n3,false\n", "row 1 has 'True', and other rows have 'true'"),
        (frame().to_csv(), "a name for each column of bad.csv"),
        (
            frame(x=[1, "?"] * 5).to_csv(index=False),
            r"numbers in the column 'x' of bad.csv, but got object, such as '\?'",
        ),
    ],
)
def test_a_csv_file_is_read_as_it_is_written(tmp_path, text, message):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_table(tmp_path / "bad.csv")


def test_codes_of_a_csv_file_are_classes(tmp_path):
    rows = frame(label=["1E2", "100", "A", "1.0", "1"] * 2)
    assert read_table(saved(rows, tmp_path / "mine.csv")).classes == 5


def test_words_of_a_csv_file_are_classes(tmp_path):
    rows = frame(label=["NA", "GB"] * 5, x=[True, False] * 5).to_csv(index=False)
    for name, encoding in (("mine.csv", "utf-8-sig"), ("other.CSV", "utf-16")):
        (tmp_path / name).write_bytes(rows.encode(encoding))
        table = read_table(tmp_path / name)
        assert table.labels["train"].tolist() == [1, 0, 1, 0, 1, 0]
        assert table.features["train"][:, 0].tolist() == [1, 0, 1, 0, 1, 0]


def test_two_files_of_a_table_are_refused(tmp_path):
    for name in ("a.csv", "a.parquet"):
        saved(frame(), tmp_path / name)
    (tmp_path / "._b.csv").write_bytes(b"of a system")
    with pytest.raises(UsageError, match="Expected one file for each table, but got a.csv and a.parquet"):
        read_tables(str(tmp_path))
    (tmp_path / "a.parquet").unlink()
    assert [table.name for table in read_tables(str(tmp_path))] == ["a"]


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    for name in ("b.csv", "a.parquet", "index.csv"):
        saved(frame(), tmp_path / name)
    (tmp_path / "README.md").write_text("not a table")
    assert [table.name for table in read_tables(str(tmp_path))] == ["a", "b"]
    assert [table.name for table in read_tables(str(tmp_path), ["b"])] == ["b"]
    with pytest.raises(UsageError, match="Expected a table of .*, but got 'c'"):
        read_tables(str(tmp_path), ["c"])


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_without_tables_is_refused(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"Expected --data to be a folder of .parquet or .csv files, but '{folder}'"):
        read_tables(folder)
