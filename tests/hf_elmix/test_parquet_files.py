from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_elmix import parquet_files
from hf_elmix.analysis.frames import read_scores
from hf_elmix.errors import UsageError
from hf_elmix.tables.data import read_tables
from hf_elmix.text.files import read_files
from hf_elmix.text.rows import read_dataset


def unchecked(cells: list[bytes]) -> pa.Array:
    """A column of text with these bytes, as a faulty program writes it."""
    column = pa.array(cells, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(column), column.buffers())


@pytest.fixture
def folder(tmp_path):
    """A folder with a table that has a word in Latin-1 in each column of words."""
    words = unchecked([b"a", b"sch\xf6n", b"b", b"a"] * 3)
    scores = {"task": words, "method": words, "seed": [*range(12)], "score": [0.5] * 12}
    pq.write_table(pa.table({"text": words, "label": words, "x": [1.0] * 12} | scores), tmp_path / "train.parquet")
    return tmp_path


@pytest.mark.parametrize(
    "read",
    [
        lambda folder: read_files({"train": str(folder / "train.parquet")}),
        lambda folder: read_dataset(str(folder)),
        lambda folder: read_tables(folder),
        lambda folder: read_scores(folder / "train.parquet"),
    ],
    ids=["file", "folder", "tables", "scores"],
)
def test_text_that_is_not_utf_8_is_refused_where_it_is_read(read, folder):
    with pytest.raises(UsageError, match="column '(text|task)' is damaged .*UTF8") as raised:
        read(folder)
    assert "\n" not in str(raised.value)


def test_categories_and_views_are_words(tmp_path):
    words = ["b", "a", None]
    columns = {"label": pa.array(words).dictionary_encode(), "text": pa.array(words, pa.string_view()), "x": [1, 2, 3]}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    table = parquet_files.read_table(tmp_path / "rows.parquet")
    assert table["label"].to_pylist() == table["text"].to_pylist() == words
    assert table.schema.field("label").type == table.schema.field("text").type == pa.string()
