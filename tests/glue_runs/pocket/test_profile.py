"""The figure of the README, from the numbers beside it."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

import glue_runs.pocket
from glue_runs.demo import APART
from glue_runs.protocol import MIXINGS, SEEDS, TASK_NAMES
from hf_elmix.analysis.aside import find_asides
from hf_elmix.analysis.report import write_report
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.tables import read_scores
from hf_elmix.analysis.words import aside_sentence, verdict

POCKET = Path(glue_runs.pocket.__file__).parent


@pytest.fixture(scope="module")
def runs_df() -> pd.DataFrame:
    runs_df = read_scores(POCKET / "scores.csv").astype(dict.fromkeys(APART, float))
    runs_df.attrs["aside"] = APART
    return runs_df


def test_the_numbers_are_those_of_every_run(runs_df):
    parts = {name: set(runs_df[name]) for name in ("problem", "seed", "method")}
    assert parts == {"problem": set(TASK_NAMES), "seed": set(SEEDS), "method": set(MIXINGS)}
    assert len(runs_df) == len(TASK_NAMES) * len(SEEDS) * len(MIXINGS)
    assert runs_df["score"].between(0.5, 1, inclusive="neither").all()
    assert runs_df[list(APART)].stack().between(0, 1).all()


def test_what_is_said_of_them_is_what_they_say(runs_df):
    said = " ".join((POCKET / "README.md").read_text().split())
    for aside in find_asides(runs_df, "ce"):
        assert aside_sentence(aside, "ce") in said
    for sentence in verdict(StudyResults(runs_df)):
        assert sentence in said


def test_the_figure_is_what_todays_code_draws_of_them(runs_df, tmp_path):
    write_report(StudyResults(runs_df), tmp_path)
    drawn, kept = (
        matplotlib.image.imread(path) for path in (tmp_path / "figures/profile.png", POCKET / "profile.png")
    )
    assert drawn.shape == kept.shape
    assert np.abs(drawn - kept).mean() < 0.01  # another version of Matplotlib may smooth its letters otherwise
