from __future__ import annotations

import math
import statistics

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from hf_elmix.analysis.tables import runs_table, scores_table, summary_table, summary_text
from hf_elmix.study.spec import RunKey, RunRecord

NAN = math.nan
PAPER = ["ce", "el", "0", "0,0.5", "0-0.5"]

# Others may be using the machine: how long an example takes says nothing.
unhurried = settings(deadline=None, max_examples=60)

# (problem, method, seed): some methods only in one problem, seeds that sort otherwise as text.
METHODS_OF = {"a": ("0-0.5", "ce", "0.3"), "b": ("ce", "el", "0,0.5", "0.3")}
RUNS = [(problem, method, seed) for problem, methods in METHODS_OF.items() for method in methods for seed in (2, 10)]


def make_record(problem: str, method: str, seed: int) -> RunRecord:
    scores = {"accuracy": {"last": seed / 16, "best": 1.0, "epochs": [1.0, seed / 16]}}
    return RunRecord(RunKey(problem, method, seed), "done", scores, [], {"score": "accuracy"}, {}, {"seconds": 1.0})


def cells(text: str) -> list[list[str]]:
    """The cells of a Markdown table, without the rule below its header."""
    header, _, *body = text.splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (header, *body)]


def test_runs_have_their_key_status_score_cost_and_every_metric(small_study):
    runs_df = runs_table(small_study)
    first = ["problem", "method", "seed", "status", "score", "seconds", "steps_trained"]
    assert list(runs_df) == [*first, "accuracy", "mcc"]
    columns = ["problem", "method", "seed", "status", "score", "mcc"]
    expected = pd.DataFrame(
        [
            ("cola", "ce", 0, "done", 0.75, 0.5),
            ("cola", "0-0.5", 0, "done", 1.0, 0.75),
            ("cola", "0.3", 0, "failed", NAN, NAN),
            ("cola", "ce", 1, "done", 0.5, 0.25),
            ("cola", "0-0.5", 1, "done", 0.5, 0.125),
            ("cola", "0.3", 1, "done", 0.25, 0.0),
            ("rte", "ce", 0, "done", 0.5, NAN),
            ("rte", "0-0.5", 0, "done", 0.625, NAN),
            ("rte", "0.3", 0, "done", 0.5, NAN),
            ("rte", "ce", 1, "diverged", NAN, NAN),
            ("rte", "0-0.5", 1, "done", 0.75, NAN),
        ],
        columns=columns,
    )
    assert_frame_equal(runs_df[columns], expected, check_exact=True)
    assert runs_df["seconds"].tolist() == [2.5 + seed for seed in runs_df["seed"]]
    assert (runs_df["steps_trained"] == 12).all()
    # The metrics of a diverged run are kept beside its missing score.
    assert runs_df.loc[runs_df["status"] == "diverged", "accuracy"].tolist() == [0.875]


def test_a_metric_is_never_taken_for_a_column_of_the_run(record):
    # A problem may call a metric 'score': the score of a diverged run is missing all the same.
    diverged = record("a", "ce", 0, 0.5, status="diverged", score=0.5)
    runs_df = runs_table([record("a", "0", 0, 0.25), diverged])
    assert runs_df.set_index("method").loc["ce", "status"] == "diverged"
    assert math.isnan(runs_df.set_index("method").loc["ce", "score"])


def test_the_score_is_the_metric_the_study_named(record):
    run = record("a", "ce", 0, 0.5, f1=0.75)
    run.settings["score"] = "f1"
    assert runs_table([run])["score"].tolist() == [0.75]


def test_no_records_make_a_table_without_rows():
    runs_df = runs_table([])
    assert runs_df.empty
    assert {"problem", "method", "seed", "status", "score"} <= set(runs_df)


def test_scores_have_a_row_for_each_experiment_and_a_column_for_each_method(small_study):
    scores = scores_table(runs_table(small_study))
    assert scores.index.names == ["problem", "seed"]
    assert scores.index.tolist() == [("cola", 0), ("cola", 1), ("rte", 0), ("rte", 1)]
    expected = {"ce": [0.75, 0.5, 0.5, NAN], "0-0.5": [1, 0.5, 0.625, 0.75], "0.3": [NAN, 0.25, 0.5, NAN]}
    assert_frame_equal(scores, pd.DataFrame(expected, scores.index), check_names=False, check_exact=True)


@unhurried
@given(st.permutations(RUNS))
def test_the_order_of_the_records_does_not_matter(runs):
    ordered, shuffled = (runs_table(make_record(*run) for run in some) for some in (RUNS, runs))
    assert_frame_equal(shuffled, ordered)
    assert ordered["seed"].tolist() == sorted(ordered["seed"][:6]) + sorted(ordered["seed"][6:])


def test_methods_stand_in_the_papers_order_and_others_follow(record):
    runs_df = runs_table(record("a", method, 0, 0.5) for method in ["0.3", "0.1", *reversed(PAPER)])
    assert list(scores_table(runs_df)) == [*PAPER, "0.1", "0.3"]
    assert summary_table(runs_df)["method"].tolist() == [*PAPER, "0.1", "0.3"]
    assert cells(summary_text(summary_table(runs_df)))[0] == ["task", *PAPER, "0.1", "0.3"]


def test_methods_stand_in_the_papers_order_though_the_first_experiment_lacks_some(record):
    runs_df = runs_table([record("a", "0-0.5", 0, 0.5), *(record("b", method, 0, 0.5) for method in PAPER)])
    assert list(scores_table(runs_df)) == PAPER
    assert cells(summary_text(summary_table(runs_df)))[0] == ["task", *PAPER]


def test_a_summary_by_hand(small_study):
    summary = summary_table(runs_table(small_study))
    # Two runs x, y have the mean (x + y) / 2 and, with n - 1, the standard deviation |x - y| / sqrt(2).
    expected = pd.DataFrame(
        [
            ("cola", "ce", 0.625, 0.25 / math.sqrt(2), 2, 2),
            ("cola", "0-0.5", 0.75, 0.5 / math.sqrt(2), 2, 2),
            ("cola", "0.3", 0.25, NAN, 1, 2),
            ("rte", "ce", 0.5, NAN, 1, 2),
            ("rte", "0-0.5", 0.6875, 0.125 / math.sqrt(2), 2, 2),
            ("rte", "0.3", 0.5, NAN, 1, 2),
        ],
        columns=["problem", "method", "mean", "sd", "runs", "expected"],
    )
    assert_frame_equal(summary, expected)


@unhurried
@given(st.lists(st.integers(0, 1000).map(lambda k: k / 1000), min_size=2, max_size=6))
def test_mean_and_standard_deviation_are_those_of_the_standard_library(values):
    runs_df = pd.DataFrame({"problem": "a", "method": "ce", "seed": range(len(values)), "score": values})
    row = summary_table(runs_df).iloc[0]
    assert row["mean"] == pytest.approx(statistics.mean(values))
    assert row["sd"] == pytest.approx(statistics.stdev(values), abs=1e-12)
    assert (row["runs"], row["expected"]) == (len(values), len(values))


def test_the_text_by_hand(small_study):
    assert summary_text(summary_table(runs_table(small_study))) == "\n".join(
        [
            "| task | ce                | 0-0.5             | 0.3         |",
            "|------|-------------------|-------------------|-------------|",
            "| cola | 62.50 ± 17.68 (2) | 75.00 ± 35.36 (2) | 25.00 (1/2) |",
            "| rte  | 50.00 (1/2)       | 68.75 ± 8.84 (2)  | 50.00 (1/2) |",
        ]
    )


def test_runs_without_a_score_or_a_record_are_counted_against_the_seeds_of_the_problem(record):
    failed = [record("a", "0", seed, status="failed") for seed in range(3)]
    summary = summary_table(runs_table([*failed, record("a", "ce", 0, 0.5), record("b", "ce", 0, 0.25)]))
    assert cells(summary_text(summary)) == [
        ["task", "ce", "0"],
        ["a", "50.00 (1/3)", "no score (0/3)"],
        ["b", "25.00 (1)", "no run"],
    ]


def test_a_study_in_which_every_run_failed_still_has_a_summary(record):
    summary = summary_table(runs_table([record("a", "ce", seed, status="failed") for seed in (0, 1)]))
    assert summary[["runs", "expected"]].to_numpy().tolist() == [[0, 2]]
    assert "no score (0/2)" in summary_text(summary)


def test_scores_can_be_shown_in_another_unit(record):
    summary = summary_table(runs_table([record("a", "ce", 0, 12.5), record("a", "ce", 1, 13.5)]))
    assert "| a    | 13.00 ± 0.71 (2) |" in summary_text(summary, scale=1)
