"""The page *Does it work?* and README.md say what the records give."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hf_elmix.study.spec import RunKey, RunRecord
from hf_elmix.study.store import Store

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def evidence():
    spec = importlib.util.spec_from_file_location("evidence", ROOT / "hf_elmix" / "docs" / "evidence.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def table(evidence) -> pd.DataFrame:
    return pd.read_parquet(evidence.RECORDS)


def test_the_texts_say_what_the_records_give(evidence, table):
    for path, text in evidence.remade(table).items():
        assert path.read_text() == text, f"{path.name}: type python hf_elmix/docs/evidence.py"


def test_the_numbers_are_those_of_plain_pandas(evidence, table):
    """Chosen, averaged and compared again with nothing of this package."""
    for model in evidence.MODELS:
        runs = table[(table["model"] == model) & (table["status"] == "done")].copy()
        runs["name"] = runs["method"].astype(str).str.partition(" [")[0]
        best = runs.sort_values("validation", ascending=False, kind="stable").groupby(
            ["task", "name", "seed"], observed=True
        )
        means = best["test"].first().groupby(["task", "name"]).mean().unstack("name") * 100
        found = evidence.by_table(evidence.scores_of(table, model)).droplevel("seed")
        same = means.loc[found.index]
        np.testing.assert_allclose(found, same[found.columns], rtol=0, atol=1e-9)


def written(folder: Path, accuracies: dict[tuple[str, int], float | None]) -> Path:
    """A study of pictures with these scores of its runs by method and seed; None for one that diverged."""
    store, settings = Store(folder), {"select": {"metric": "accuracy", "epoch": "last"}}
    methods, seeds = (sorted(set(parts)) for parts in zip(*accuracies, strict=True))
    grid = {"tasks": ["cifar100-resnet20"], "methods": methods, "seeds": seeds}
    store.declare({"grids": [grid], "methods": {}, "settings": {}, "commands": []})
    settings["arguments"] = {"num_train_epochs": 30, "bf16": True}
    for (method, seed), accuracy in accuracies.items():
        status, value = ("done", accuracy) if accuracy is not None else ("diverged", 0.01)
        scores = {"accuracy": {"last": value, "best": value, "epochs": [value], "steps": [1]}}
        cost = {"seconds": 0.0, "steps_trained": 1, "steps_inherited": 0}
        store.write(RunRecord(RunKey("cifar100-resnet20", method, seed), status, scores, [], settings, {}, cost))
    return folder


def test_pictures_get_a_table_beside_the_papers(evidence, tmp_path, monkeypatch):
    gains = {"ce": 0.0, "0": 0.01, "0,0.5": 0.02, "0-0.5": 0.03}
    scores = {(method, seed): 0.4 + gain + seed / 100 for method, gain in gains.items() for seed in (0, 1, 2)}
    table = evidence.compact_images(written(tmp_path / "runs", scores))
    monkeypatch.setattr(evidence, "IMAGES", tmp_path / "images.parquet")
    before = evidence.remade(pd.read_parquet(evidence.RECORDS))[evidence.PAGE]
    assert before == evidence.PAGE.read_text()
    table.to_parquet(evidence.IMAGES)
    after = evidence.remade(pd.read_parquet(evidence.RECORDS))[evidence.PAGE]
    (row,) = [line for line in after.splitlines() if line.startswith("| F = 0-0.5") and "68.48 ± 0.14" in line]
    assert [cell.strip() for cell in row.split("|")[3:5]] == ["44.00 ± 1.00", "+3.00 \\[3.00, 3.00\\]"]
    assert "--num_train_epochs 30 --seeds 0 1 2 --bf16" in after
    assert before.partition("<!-- made images -->")[0] == after.partition("<!-- made images -->")[0]


def test_a_part_of_a_study_of_pictures_is_not_published(evidence, tmp_path):
    folder = written(tmp_path, {("ce", 0): 0.4, ("0", 0): None})
    with pytest.raises(SystemExit, match="1 are not, such as cifar100-resnet20 0 seed 0"):
        evidence.compact_images(folder)


def test_records_are_taken_over_as_they_are(evidence, tmp_path):
    scores = {
        "validation_accuracy": {"last": 0.2, "best": 0.5, "epochs": [0.5, 0.5, 0.2], "steps": [1, 2, 3]},
        "test_accuracy": {"last": 0.9, "best": 0.9, "epochs": [0.3, 0.4, 0.9], "steps": [1, 2, 3]},
    }
    settings = {"select": evidence.SELECT.to_settings()}
    cost = {"seconds": 0.0, "steps_trained": 3, "steps_inherited": 0}
    for model in evidence.MODELS:
        grid = {"tasks": ["iris"], "methods": ["ce [learning_rate=0.01]"], "seeds": [0, 1]}
        Store(tmp_path / model).declare({"grids": [grid], "methods": {}, "settings": {}, "commands": []})
        for seed, status in enumerate(("done", "diverged")):
            key = RunKey("iris", "ce [learning_rate=0.01]", seed)
            Store(tmp_path / model).write(RunRecord(key, status, scores, [], settings, {}, cost))
    table = evidence.compact(tmp_path)
    assert table["validation"].tolist()[::2] == [0.5, 0.5]
    assert table["test"].tolist()[::2] == [0.3, 0.3]
    assert table["test"].isna().tolist()[1::2] == [True, True]
