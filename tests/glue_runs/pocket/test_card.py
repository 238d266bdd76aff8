"""The results in the demo's README, compared with the scores in the documentation."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import glue_runs.pocket
from glue_runs.demo import SCORED_KINDS
from glue_runs.protocol import MIXINGS, SEEDS, TASK_NAMES
from hf_elmix.analysis.frames import read_scores
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.extra_metrics import metric_sentence, secondary_metrics
from hf_elmix.analysis.sections.summary import verdict

POCKET = Path(glue_runs.pocket.__file__).parent
SCORES = POCKET.parents[1] / "hf_elmix/docs/pages/demo.csv"


@pytest.fixture(scope="module")
def runs_df() -> pd.DataFrame:
    runs_df = read_scores(SCORES).astype(dict.fromkeys(SCORED_KINDS, float))
    runs_df.attrs["secondary_metrics"] = SCORED_KINDS
    return runs_df


def test_the_numbers_are_those_of_every_run(runs_df):
    parts = {name: set(runs_df[name]) for name in ("task", "seed", "method")}
    assert parts == {"task": set(TASK_NAMES), "seed": set(SEEDS), "method": set(MIXINGS)}
    assert len(runs_df) == len(TASK_NAMES) * len(SEEDS) * len(MIXINGS)
    assert runs_df["score"].between(0.5, 1, inclusive="neither").all()
    assert runs_df[list(SCORED_KINDS)].stack().between(0, 1).all()


def test_the_readme_agrees_with_the_scores(runs_df):
    said = " ".join((POCKET / "README.md").read_text().split())
    results = StudyResults(runs_df)
    for name, metric in secondary_metrics(results).items():
        assert metric_sentence(metric, SCORED_KINDS[name]) in said
    for sentence in verdict(results):
        assert sentence in said
