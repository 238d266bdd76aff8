from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from hf_elmix.cli.main import main
from hf_elmix.predictions.records import FILE
from hf_elmix.study.store import Store

SCORES = "experiment,method,score,seed\n" + "".join(
    f"{task},{method},{0.5 + seed / 100 + (method == 'new') / 50},{seed}\n"
    for task in ("a", "b")
    for method in ("new", "old")
    for seed in range(3)
)


@pytest.fixture
def scores(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(SCORES)
    return path


def test_a_file_of_scores_becomes_a_page(scores, capsys):
    assert main(["report", str(scores), "--baseline", "old"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.startswith(
        "The difference between new and old does not vary, in too few blocks for an interval: +2.00 points, higher on "
        "2 of 2 tasks.\n"
    )
    path = scores.parent / "report" / "report.html"
    assert shown.out.endswith(f"tables and data: {path}\nOpen it: file://{path}\n")
    page = path.read_text()
    assert f"elmix report {scores} --baseline old" in page
    assert "<h1>Comparison of 2 methods on 2 tasks (scores.csv)</h1>" in page


def test_a_folder_of_records_becomes_a_page(small_study, tmp_path, capsys):
    store = Store(tmp_path / "runs")
    for record in small_study:
        store.write(record)
    assert main(["report", str(store.folder), "--title", "Mine", "--output_dir", str(tmp_path / "out")]) == 0
    assert "9 of 11 runs have a score (" in capsys.readouterr().out
    assert "<h1>Mine</h1>" in (tmp_path / "out" / "report.html").read_text()
    # The report may lie among the runs: it is no run.
    assert main(["report", str(store.folder)]) == 0
    assert (store.folder / "report" / "report.html").exists()
    assert len(list(store.records())) == len(small_study)


def test_predictions_beside_the_records_are_shown(predicted_study, tmp_path, capsys):
    records, readers = predicted_study
    store = Store(tmp_path / "runs")
    for record in records[:4]:
        store.write(record)
        if record.key in readers:
            store.write_predictions(record.key, readers[record.key]())
    assert main(["report", str(store.folder)]) == 0
    said = capsys.readouterr().out
    assert "of those near it for both, " in said
    assert "In calibration, F = 0-0.5 (ramp) " in said
    path = store.folder_of(records[0].key) / FILE
    path.write_bytes(b"no predictions")
    assert main(["report", str(store.folder)]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"elmix: Expected '{path}' to hold predictions")
    assert shown.err.count("\n") == 1


def test_runs_that_a_study_declared_and_that_are_not_there_are_missing(small_study, tmp_path, capsys):
    store = Store(tmp_path / "runs")
    for record in small_study:
        store.write(record)
    grid = {"tasks": ["cola", "rte"], "methods": ["ce", "0-0.5", "0.3", "el"], "seeds": [0, 1]}
    (store.folder / "study.json").write_text(json.dumps({"grids": [grid], "methods": {}, "settings": {}}))
    assert main(["report", str(store.folder)]) == 0
    said = capsys.readouterr().out
    assert "9 of 16 runs have a score (5 missing, " in said
    assert "no score (0/2)" in said
    page = (store.folder / "report" / "report.html").read_text()
    assert "EL (0/4 runs)" in page
    assert page.count("<td>missing</td>") == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: SOURCE"),
        (["nowhere.csv"], "Expected a file of scores or the folder of a study, but 'nowhere.csv' does not exist"),
        (["notes.txt"], "Expected a study's folder or a .csv or .parquet file, but 'notes.txt' is a file"),
        (["."], "Expected a folder of runs, but '.' has no records. Give one of its studies: damaged"),
        (["nothing"], "Expected a folder of runs, but 'nothing' has no records. Give the --output_dir of a study"),
        (["scores.csv", "--baseline", "ce"], "the baseline to be one of new, old, but got 'ce'"),
        (["scores.csv", "--basline", "old"], "'--basline'. Did you mean '--baseline'?"),
        (["broken.csv"], "Expected the columns task (or experiment), method and score"),
        (["empty.csv"], "but it is empty"),
        (["scoreless.csv"], "got 1 run without one"),
        (["damaged"], "study.json is damaged"),
        (["unscored"], "got 1 run without one"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(record, scores, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    for folder in ("unscored", "damaged"):
        Store(tmp_path / folder).write(record("a", "ce", 0, status="failed"))
    (tmp_path / "nothing").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "broken.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "scoreless.csv").write_text("experiment,method,score\na,ce,\n")
    (tmp_path / "damaged" / "study.json").write_text("{")
    assert main(["report", *words]) == 2
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith("elmix: ")
    assert message in line
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("name", ["report", "comparison.json"])
def test_a_folder_of_records_with_a_link_or_a_pipe_in_it_is_refused(small_study, tmp_path, capsys, name):
    """The folder may be somebody else's: a link would lead out of it, and reading a pipe would never end."""
    runs = tmp_path / "runs"
    for run in small_study:
        Store(runs).write(run)
    (runs / name).symlink_to(tmp_path / "elsewhere") if name == "report" else os.mkfifo(runs / name)
    assert main(["report", str(runs)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_cannot_be_written_is_one_line(scores, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(["report", str(scores), "--output_dir", str(tmp_path / "file" / "report")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_command_that_is_shown_makes_the_same_page(scores, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "scores.csv", "--baseline", "old", "--title", "It's mine", "--output_dir", "out"]) == 0
    first = (tmp_path / "out" / "report.html").read_bytes()
    (shown,) = re.findall(r"<pre>(elmix report .*?)\n</pre>", first.decode())
    import html
    import shlex

    _, *words = shlex.split(html.unescape(shown))
    assert main(words) == 0
    assert (tmp_path / "out" / "report.html").read_bytes() == first


def test_the_command_needs_no_pytorch(scores):
    code = f"import sys; from hf_elmix.cli.main import main; main(['report', {str(scores)!r}])\n"
    code += "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_a_folder_at_a_url_becomes_a_page_here(small_study, tmp_path, monkeypatch, capsys):
    store = Store("memory://runs")
    for record in small_study:
        store.write(record)
    monkeypatch.chdir(tmp_path)
    assert main(["report", "memory://runs"]) == 0
    assert "9 of 11 runs have a score" in capsys.readouterr().out
    assert (tmp_path / "report" / "report.html").exists()
    assert main(["report", "memory://nowhere"]) == 2
    assert "'memory://nowhere' does not exist" in capsys.readouterr().err
