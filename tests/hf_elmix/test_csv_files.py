from __future__ import annotations

import csv
import io

import pytest

from hf_elmix.csv_files import read_table

TEXTS = [
    'so "good"',
    '"quoted"',
    "a, b",
    "two\nlines",
    "tab\there",
    "None",
    "é 漢 \u2028 \x85",
    " space ",
    '"',
    "a" * 200_000,
]


def written(tmp_path, content, kind="csv"):
    path = tmp_path / f"rows.{kind}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, "\t" if kind == "tsv" else ",")


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_what_the_module_csv_writes_is_read_back(tmp_path, quoting, end, delimiter):
    rows = [["text", "label"], *([text, f"c{k % 2}"] for k, text in enumerate(TEXTS))]
    if end == "\r":
        rows = [row for row in rows if "\n" not in row[0]]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(rows)
    header, cells = written(tmp_path, file.getvalue(), "csv" if delimiter == "," else "tsv")
    assert [header, *cells] == rows


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_that_name_themselves(tmp_path, encoding):
    assert written(tmp_path, "text,label\né,漢\n".encode(encoding)) == (["text", "label"], [["é", "漢"]])


def test_quotation_marks_in_tsv_are_text_where_they_do_not_enclose_cells(tmp_path):
    """A mark at the start of one row and at the end of another would enclose all rows between them."""
    rows = [['"so superb , they said .', "good"], ["awful", "bad"], ['so boring , they said"', "bad"], ['5" x', "bad"]]
    text = "text\tlabel\n" + "".join("\t".join(row) + "\n" for row in rows)
    assert written(tmp_path, text, "tsv")[1] == rows
    whole = [['"all of it"', "good"], *rows]
    text = "text\tlabel\n" + "".join("\t".join(row) + "\n" for row in whole[:2])
    assert written(tmp_path, text, "tsv")[1] == whole[:2]


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("csv", "", "it is empty"),
        ("csv", "a,a\n1,2\n", "line 1 names the column 'a' twice"),
        ("csv", "a;b\n1;2\n", "line 1 has a single cell, 'a;b'. Expected ',' between cells"),
        ("tsv", "a,b\n1,2\n", "line 1 has a single cell, 'a,b'"),
        ("csv", "a,b\n1,2,\n", "line 2 has 3 cells, and the header 2. Look for a trailing comma"),
        ("csv", "a,b,\n1,2\n", "line 2 has 2 cells, and the header 3"),
        ("csv", 'a,b\n"x\ny",2\n1\n', "line 4 has 1 cell, and"),
        ("csv", 'a,b\n1,2\n"x,2\n', "marks of the row in line 3 do not match"),
        ("csv", 'a,b\n1,2\n"x"y,2\n', "marks of the row in line 3 do not match"),
        ("csv", 'a,b\n1,good\n2,bad\n"so,good\n3,bad\nno",bad\n', "begins in line 4 ends in line 6"),
        ("csv", "a\n1\n\n2\n", "line 3 is blank"),
        ("csv", "a,b\n1,2\né,2\n".encode("latin-1"), "line 3 is not in UTF-8"),
        ("csv", "a,b\n1,2\n".encode("utf-16-le"), "line 1 has a NUL"),
        ("tsv", "a\tb\n1\t2\t\n", "trailing tab"),
        ("tsv", 'a\tb\n1\t2\n"x, y"\t2\n', "line 3 has a cell in quotation marks, which may"),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path, kind, content, message):
    with pytest.raises(ValueError, match=message) as error:
        written(tmp_path, content, kind)
    assert "\n" not in str(error.value)
