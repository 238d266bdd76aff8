"""``elmix study tables``, as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hf_elmix.cli.main import main
from hf_elmix.study.store import Store


@pytest.fixture
def data(tmp_path) -> Path:
    """Two small tables of two classes that a line divides."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number, name in enumerate(("apples", "pears")):
        rng = np.random.default_rng(number)
        rows = pd.DataFrame(rng.normal(size=(60, 3)), columns=["f1", "f2", "f3"])
        rows.assign(label=(rows["f1"] > rows["f2"]).map({True: "up", False: "down"})).to_csv(
            folder / f"{name}.csv", index=False
        )
    return folder


def study(data: Path, out: Path, *words: str) -> int:
    return main(["study", "tables", "--data", str(data), "--output_dir", str(out), *words])


def test_a_study_of_ones_own_tables(data, tmp_path, capsys):
    out, few = tmp_path / "runs", ("--losses", "ce", "0-0.5", "--seeds", "0", "1", "--num_train_epochs", "3")
    assert study(data, out, *few) == 0
    assert capsys.readouterr().out.count("24 done") == 2
    keys = {record.key.method for record in Store(out / "hidden").records()}
    assert len(keys) == 6
    assert "0-0.5 [learning_rate=0.005]" in keys
    record = Store(out / "linear").read(next(iter(Store(out / "linear").asked())))
    assert record is not None
    assert record.provenance["stacked"] == 12
    assert len(record.scores["test_accuracy"]["epochs"]) == 3
    assert record.settings["select"] == {
        **{"metric": "accuracy", "epoch": "best", "chosen_on": "validation", "scored_on": "test"}
    }
    before = {path: path.stat().st_mtime_ns for path in out.rglob("record.json")}
    assert study(data, out, *few) == 0  # nothing is left to do
    assert {path: path.stat().st_mtime_ns for path in out.rglob("record.json")} == before
    assert main(["report", str(out / "linear"), "--output_dir", str(tmp_path / "report")]) == 0
    assert "on 2 tables" not in capsys.readouterr().err


def test_a_study_goes_on_in_the_precision_it_was_begun_in(data, tmp_path, capsys, monkeypatch):
    rates = {"fp32": 1.0, "bf16": 10.0}
    monkeypatch.setattr("hf_elmix.training.precision.has_accelerator", lambda: False)
    monkeypatch.setattr("hf_elmix.training.precision.product_rates", lambda: rates)
    words = ("--executor", "local", "--models", "linear", "--losses", "ce", "--seeds", "0", "--num_train_epochs", "1")
    words = (*words, "--learning_rate", "0.1", "--precision", "auto")
    assert study(data, tmp_path / "runs", *words, "--tables", "pears") == 0
    rates["bf16"] = 0.1  # as on another machine
    assert study(data, tmp_path / "runs", *words) == 0
    assert capsys.readouterr().err.count("Precision: bf16") == 2


def test_a_sweep_replaces_the_papers_learning_rates(data, tmp_path, capsys):
    words = ("--models", "linear", "--losses", "ce", "--seeds", "0", "--num_train_epochs", "1", "--tables", "pears")
    assert study(data, tmp_path / "runs", *words, "--sweep", "learning_rate=0.3,1") == 0
    keys = {record.key.method for record in Store(tmp_path / "runs" / "linear").records()}
    assert keys == {"ce [learning_rate=0.3]", "ce [learning_rate=1.0]"}
    assert study(data, tmp_path / "both", *words, "--sweep", "weight_decay=0.1,1") == 0  # each with the paper's rates
    keys = {record.key.method for record in Store(tmp_path / "both" / "linear").records()}
    assert len(keys) == 6
    assert "ce [weight_decay=0.1,learning_rate=0.01]" in keys
    assert study(data, tmp_path / "more", *words, "--sweep", "learning_rat=1") == 2
    assert "See elmix study tables --help." in capsys.readouterr().err
    both = ("--sweep", "learning_rate=0.3,1", "--learning_rate", "1")
    assert study(data, tmp_path / "more", *words, *both) == 2
    assert "Expected --learning_rate or --sweep learning_rate=…, but got both" in capsys.readouterr().err


def test_one_learning_rate_replaces_the_choice(data, tmp_path):
    words = ("--models", "linear", "--losses", "ce", "--seeds", "0", "--num_train_epochs", "1")
    assert study(data, tmp_path / "runs", *words, "--learning_rate", "0.1", "--tables", "pears") == 0
    (record,) = Store(tmp_path / "runs" / "linear").records()
    assert (record.key.method, record.settings["arguments"]["learning_rate"]) == ("ce", 0.1)
    assert not (tmp_path / "runs" / "hidden").exists()


def test_models_are_kept_when_runs_are_trained_one_by_one(data, tmp_path):
    words = ("--models", "linear", "--losses", "ce", "--seeds", "0", "--num_train_epochs", "1", "--tables", "pears")
    more = ("--executor", "local", "--keep", "models", "--learning_rate", "0.1")
    assert study(data, tmp_path / "runs", *words, *more) == 0
    (config,) = (tmp_path / "runs").rglob("model/config.json")
    assert json.loads(config.read_text()) == {"classes": 2, "features": 3, "model": "linear"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere"], "Expected --data to be a folder of .parquet or .csv files, but 'nowhere' has none."),
        (["--tables", "aples"], "Did you mean 'apples'?"),
        (["--models", "deep"], "Expected --models to be one of linear, hidden, but got 'deep'"),
        (["--keep", "models"], "--keep models needs runs that are trained one by one. Type --executor local, too."),
        (["--cohorts"], "--cohorts needs runs that are trained one by one."),
        (["--fp16"], "Runs cannot be stacked with fp16=True. Type --executor local."),
        (["--losses", "fokal"], "Did you mean 'focal"),
        (["--split_column_name", "fold"], "Expected a column 'fold' in apples.csv"),
        (["--output_dir", "data"], "Expected --data outside of --output_dir"),
        (["--output_dir", "memory://x"], "Expected --output_dir to outlive this command, but 'memory://x' is in its"),
        (["--output_dir", "dir::memory://x"], "Expected --output_dir to outlive this command"),
    ],
)
def test_mistakes_are_one_line(data, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["study", "tables", "--data", "data", "--output_dir", "runs", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [(["study"], "required: COMMAND"), (["study", "tabels"], "Did you mean 'tables'?")],
)
def test_the_study_must_be_named(capsys, words, message):
    assert main(words) == 2
    assert message in capsys.readouterr().err
