"""``elmix study reviews``, as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from hf_elmix.cli.main import main
from hf_elmix.study.store import Store


@pytest.fixture
def data(tmp_path) -> Path:
    """Reviews that one word tells apart."""
    texts = [f"{word} dress" for word in ("lovely", "awful")] * 30
    pd.DataFrame({"words": texts, "stars": [5, 1] * 30}).to_csv(tmp_path / "mine.csv", index=False)
    return tmp_path / "mine.csv"


def study(data: Path, out: Path, *words: str) -> int:
    columns = ("--text_column_name", "words", "--label_column_name", "stars")
    return main(["study", "reviews", "--data", str(data), "--output_dir", str(out), *columns, *words])


def test_a_study_of_ones_own_reviews(data, tmp_path, capsys):
    out, few = tmp_path / "runs", ("--models", "lstm-1x50", "--seeds", "0", "1", "--num_train_epochs", "2")
    assert study(data, out, *few, "--cohorts") == 0
    assert capsys.readouterr().out == f"8 done: {out}\n"
    records = list(Store(out).records())
    assert {record.key.method for record in records} == {"ce", "0", "0,0.5", "0-0.5"}
    assert records[0].settings["select"] == {
        **{"metric": "accuracy", "epoch": "best", "chosen_on": "validation", "scored_on": "test"}
    }
    assert records[0].settings["vocabulary"] == {"size": 5, "least_count": 2}
    before = {path: path.stat().st_mtime_ns for path in out.rglob("record.json")}
    assert study(data, out, *few, "--cohorts") == 0  # nothing is left to do
    assert {path: path.stat().st_mtime_ns for path in out.rglob("record.json")} == before
    assert main(["report", str(out), "--output_dir", str(tmp_path / "report")]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere.csv"], "'nowhere.csv' does not exist."),
        (["--models", "lstm"], "Expected --models to be one of lstm-1x50, lstm-1x75, "),
        (["--text_column_name", "text"], "Expected a column 'text' in 'mine.csv', but it has words, stars."),
        (["--losses", "fokal"], "Did you mean 'focal"),
        (["--max_seq_length", "0"], "--max_seq_length"),
        (["--executor", "stacked"], "Expected --executor to be one of local, ray"),
        (["--output_dir", "."], "Expected --data outside of --output_dir"),
    ],
)
def test_mistakes_are_one_line(data, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert study(Path("mine.csv"), Path("runs"), *words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
