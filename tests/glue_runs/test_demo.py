from __future__ import annotations

import errno
import html
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from glue_runs.demo import ABOUT, SCORED_KINDS, demo_study
from glue_runs.pocket.dataset import write_dataset
from glue_runs.protocol import SEEDS, TASK_NAMES
from glue_runs.tasks import TASKS
from hf_elmix.analysis.numbers import first_upper


def test_it_is_the_papers_grid_on_rows_that_exist(pocket, tmp_path):
    shutil.copytree(pocket, tmp_path / "rows")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    study = demo_study(tmp_path)
    assert len(study.runs()) == len(TASK_NAMES) * len(SEEDS) * 4 == 112
    assert len(before) == 7 + 8  # a training and an evaluation split each, and MNLI's second one
    settings = [study.settings(task, study.methods[0]) for task in study.tasks]
    for task, made in zip(study.tasks, settings, strict=True):
        assert list(made["secondary_metrics"]) == [f"train_{kind}_accuracy" for kind in ("mislabelled", "ambiguous")]
        assert made["secondary_metrics"] == task.secondary_metrics
    sizes = study.tasks[0].inputs(0).provenance["data_rows"]
    assert [sizes[f"train_{kind}"] for kind in SCORED_KINDS] == [16, 32]
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}


def test_rows_that_a_full_disk_cut_short_are_written_again(tmp_path, monkeypatch):
    def full(*_) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)  # which a full disk fails last
    with pytest.raises(OSError, match="No space left"):
        write_dataset(tmp_path, train_rows=8, validation_rows=8)
    assert not list(tmp_path.glob("*.md"))  # the demo looks for it to know that all rows are there


def test_it_says_what_its_rows_are():
    assert "GENERATED" in ABOUT
    assert "cannot show" in ABOUT
    assert "glue-runs study" in ABOUT
    assert "memorise" in ABOUT


# The demo with one of its seeds: the others would test the same again.
ONE_SEED = """
import sys
from dataclasses import replace
from glue_runs import demo
from glue_runs.commands import main

whole = demo.demo_study
demo.demo_study = lambda folder: replace(whole(folder), seeds=(0,))
sys.exit(main())
"""


@pytest.mark.slow
def test_the_demo_runs_without_a_network(tmp_path):
    """Requests would go to a proxy that does not exist."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "OMP_NUM_THREADS")
    }
    environment |= {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", ONE_SEED, "demo", "--output_dir", str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert ABOUT.strip() in done.stdout
    assert "28 done" in done.stdout
    assert "Traceback" not in done.stderr
    report = tmp_path / "demo/report"
    assert done.stdout.endswith(f"{report / 'report.html'}\nOpen it: {(report / 'report.html').as_uri()}\n")
    runs_df = pd.read_csv(report / "data/runs.csv")
    means = runs_df.groupby("task")["score"].mean()
    for name, task in TASKS.items():
        rows = pd.read_parquet(next((tmp_path / "demo/rows" / name).glob(f"{task.splits[0]}-*")))
        assert rows["label"].value_counts(normalize=True).max() + 0.1 < means[name] < 0.97, name
    assert (runs_df.groupby("task")["score"].nunique() > 1).all()
    page = html.unescape((report / "report.html").read_text()).replace("\N{NO-BREAK SPACE}", " ")
    assert "glue-runs demo --output_dir" in page
    for kind, label in SCORED_KINDS.items():
        said = f"{first_upper(label)}: CE {100 * means_of(runs_df, 'ce', kind):.2f} %, F = 0 (constant) "
        assert said in done.stdout
        assert said in page


def means_of(runs_df: pd.DataFrame, method: str, kind: str) -> float:
    return runs_df.loc[runs_df["method"] == method, f"train_{kind}_accuracy"].mean()
