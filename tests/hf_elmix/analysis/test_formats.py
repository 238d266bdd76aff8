from __future__ import annotations

import re
import shutil
import subprocess

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_elmix.analysis.formats import Cell, Table, cell_of, text_of, to_cells, to_latex, to_markdown

TABLE = Table(
    "pairs", "Pairs", "All < 5 % of A_b.", ["method", "gain"], [[Cell("F = 0"), Cell("+0.50", 0.5)], ["a|b", "−1"]]
)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)


def test_markdown_by_hand():
    assert to_markdown(TABLE) == "\n".join(
        [
            "**Pairs.** All \\< 5 % of A\\_b.",
            "",
            "| method | gain  |",
            "|--------|-------|",
            "| F = 0  | +0.50 |",
            "| a\\|b   | −1    |",
            "",
        ]
    )


def test_latex_by_hand():
    assert (
        to_latex(TABLE)
        == r"""\begin{table}
\centering
\caption{All \textless{} 5 \% of A\_b.}
\label{tab:pairs}
\begin{tabular}{lr}
\toprule
method & gain \\
\midrule
F = 0 & +0.50 \\
a\textbar{}b & \ensuremath{-}1 \\
\bottomrule
\end{tabular}
\end{table}
"""
    )


@given(NAMES, NAMES)
def test_no_text_breaks_a_markdown_table(name, cell):
    lines = to_markdown(Table("t", "T", name, ["a", name], [[name, Cell(cell)]])).splitlines()
    assert len(lines) == 5
    for line in lines[2:]:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3


@given(NAMES, NAMES)
def test_no_text_breaks_a_latex_table(name, cell):
    text = to_latex(Table("t", "T", name, ["a", name], [[name, Cell(cell)]]))
    body = text.split("\\toprule\n")[1].split("\\bottomrule")[0].replace("\\midrule\n", "")
    for line in body.splitlines():
        bare = re.sub(r"\\(?:ensuremath|text\w+)|\\[&%$#_{}]", "", line.removesuffix("\\\\"))
        assert line.endswith("\\\\")
        assert bare.count("&") == 1
        assert not set("%$#_~^\\") & set(re.sub(r"\\(pm|tau|cdot|geq|times|chi|alpha|beta)|\^2", "", bare))
        assert bare.count("{") == bare.count("}")


def test_line_breaks_in_a_cell_are_blanks():
    table = Table("t", "T", "", ["a"], [["one\ntwo\r\n three"]])
    assert "| one two three |" in to_markdown(table)
    assert "one two three \\\\" in to_latex(table)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(tmp_path):
    nasty = "".join(map(chr, range(32, 127))) + "−±τ·≥×χ²αβ"
    page = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs}\begin{document}"
    text = to_latex(Table("t", "T", nasty, ["a", nasty], [[nasty, "[1, 2]"]]))
    (tmp_path / "page.tex").write_text(f"{page}\n{text}\\end{{document}}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize(
    "text", ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3", "\t=1", "\r=1", "＝1", "'=1", "--5"]
)
def test_what_a_spreadsheet_would_carry_out_has_an_apostrophe(text):
    assert cell_of(text) == f"'{text}"
    assert text_of(cell_of(text)) == text


@pytest.mark.parametrize("text", ["", "ce", "0-0.5", "-0.5", "+1e-5", "-.5", "'quoted'", "a=b", "−1"])
def test_other_texts_and_numbers_stay_as_they_are(text):
    assert cell_of(text) == text_of(text) == text


@given(st.text(st.sampled_from("'=+-@\t\r1.ea")))
def test_every_text_can_be_read_again(text):
    assert text_of(cell_of(text)) == text


@given(st.lists(st.none() | st.text(st.sampled_from("'=+-@\t\r\n1.ea")), min_size=1))
def test_tables_have_the_same_cells(texts):
    column, numbers = pa.array(texts, pa.string()), pa.array([-1.5] * len(texts))
    table = pa.table({"=name": column, "number": numbers, "category": column.dictionary_encode()})
    cells = to_cells(table)
    assert cells.column_names == ["'=name", "number", "category"]
    for place in (0, 2):
        assert cells.column(place).to_pylist() == [None if text is None else cell_of(text) for text in texts]
    assert cells.column(1) == table.column(1)


def test_tables_for_a_terminal_have_no_control_characters():
    table = Table("a", "A", "cap\x1btion", ["method"], [["\x1b[2Jx"]])
    assert "\x1b" not in to_markdown(table) + to_latex(table)
