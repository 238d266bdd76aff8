from __future__ import annotations

import json
import math
import statistics

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from hf_elmix.analysis.frames import (
    curves_table,
    read_scores,
    runs_table,
    scale_of,
    scores_table,
    summary_table,
)
from hf_elmix.errors import UsageError
from hf_elmix.study.spec import RunKey, RunRecord

NAN = math.nan
PAPER = ["ce", "el", "0", "0,0.5", "0-0.5"]

# No deadline: the machine may be busy.
unhurried = settings(deadline=None, max_examples=60)

# (task, method, seed): some methods only in one task, seeds that sort otherwise as text.
METHODS_OF = {"a": ("0-0.5", "ce", "0.3"), "b": ("ce", "el", "0,0.5", "0.3")}
RUNS = [(task, method, seed) for task, methods in METHODS_OF.items() for method in methods for seed in (2, 10)]


def make_record(task: str, method: str, seed: int) -> RunRecord:
    scores = {"accuracy": {"last": seed / 16, "best": 1.0, "epochs": [1.0, seed / 16]}}
    return RunRecord(RunKey(task, method, seed), "done", scores, [], {"select": "accuracy"}, {}, {"seconds": 1.0})


def test_runs_have_their_key_status_score_cost_and_every_metric(small_study):
    runs_df = runs_table(small_study)
    first = ["task", "method", "seed", "status", "score", "seconds", "steps_trained", "steps_inherited", "error"]
    assert list(runs_df) == [*first, "accuracy", "mcc", "settings"]
    columns = ["task", "method", "seed", "status", "score", "mcc"]
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


def test_a_metric_never_replaces_a_column(record):
    # A task may call a metric 'score': the score of a diverged run is missing all the same.
    diverged = record("a", "ce", 0, 0.5, status="diverged", score=0.5)
    runs_df = runs_table([record("a", "0", 0, 0.25), diverged])
    assert runs_df.set_index("method").loc["ce", "status"] == "diverged"
    assert math.isnan(runs_df.set_index("method").loc["ce", "score"])


def test_the_score_is_the_metric_the_study_named(record):
    run = record("a", "ce", 0, 0.5, f1=0.75)
    run.settings["select"] = {"metric": "f1"}
    assert runs_table([run])["score"].tolist() == [0.75]


def test_no_records_make_a_table_without_rows():
    runs_df = runs_table([])
    assert runs_df.empty
    assert {"task", "method", "seed", "status", "score"} <= set(runs_df)


def test_scores_have_a_row_per_block_and_a_column_per_method(small_study):
    scores = scores_table(runs_table(small_study))
    assert scores.index.names == ["task", "seed"]
    assert scores.index.tolist() == [("cola", 0), ("cola", 1), ("rte", 0), ("rte", 1)]
    expected = {"ce": [0.75, 0.5, 0.5, NAN], "0-0.5": [1, 0.5, 0.625, 0.75], "0.3": [NAN, 0.25, 0.5, NAN]}
    assert_frame_equal(scores, pd.DataFrame(expected, scores.index), check_names=False, check_exact=True)


@unhurried
@given(st.permutations(RUNS))
def test_the_order_of_the_records_does_not_matter(runs):
    ordered, shuffled = (runs_table(make_record(*run) for run in some) for some in (RUNS, runs))
    assert_frame_equal(shuffled, ordered)
    assert ordered["seed"].tolist() == sorted(ordered["seed"][:6]) + sorted(ordered["seed"][6:])


def test_methods_are_in_the_papers_order_and_others_follow(record):
    runs_df = runs_table(record("a", method, 0, 0.5) for method in ["0.3", "0.1", *reversed(PAPER)])
    assert list(scores_table(runs_df)) == [*PAPER, "0.1", "0.3"]
    assert summary_table(runs_df)["method"].tolist() == [*PAPER, "0.1", "0.3"]


def test_methods_are_in_the_papers_order_if_the_first_block_lacks_some(record):
    runs_df = runs_table([record("a", "0-0.5", 0, 0.5), *(record("b", method, 0, 0.5) for method in PAPER)])
    assert list(scores_table(runs_df)) == PAPER


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
        columns=["task", "method", "mean", "sd", "runs", "expected"],
    )
    assert_frame_equal(summary, expected)


@unhurried
@given(st.lists(st.integers(0, 1000).map(lambda k: k / 1000), min_size=2, max_size=6))
def test_mean_and_standard_deviation_are_those_of_the_standard_library(values):
    runs_df = pd.DataFrame({"task": "a", "method": "ce", "seed": range(len(values)), "score": values})
    row = summary_table(runs_df).iloc[0]
    assert row["mean"] == pytest.approx(statistics.mean(values))
    assert row["sd"] == pytest.approx(statistics.stdev(values), abs=1e-12)
    assert (row["runs"], row["expected"]) == (len(values), len(values))


def test_a_study_in_which_every_run_failed_still_has_a_summary(record):
    summary = summary_table(runs_table([record("a", "ce", seed, status="failed") for seed in (0, 1)]))
    assert summary[["runs", "expected"]].to_numpy().tolist() == [[0, 2]]


def test_runs_that_were_asked_for_and_have_no_record_are_missing(record):
    asked = [RunKey("a", method, seed) for method in ("0", "ce") for seed in (0, 1)]
    runs_df = runs_table([record("a", "ce", 0, 0.5), record("a", "0", 0, status="failed")], asked)
    rows = runs_df[["method", "seed", "status"]].to_numpy().tolist()
    assert rows == [["ce", 0, "done"], ["0", 0, "failed"], ["ce", 1, "missing"], ["0", 1, "missing"]]
    assert runs_df["score"].isna().tolist() == [False, True, True, True]
    summary = summary_table(runs_df).set_index("method")
    assert summary[["runs", "expected"]].to_numpy().tolist() == [[1, 2], [0, 2]]
    assert len(scores_table(runs_df)) == 2


def test_errors_and_settings_are_kept(record):
    run = record("a", "ce", 0, status="failed", settings=0.5)
    run.settings["note"] = "β"
    run = RunRecord(**{**vars(run), "error": "out of memory\nat step 3"})
    row = runs_table([run]).iloc[0]
    assert row["error"] == "out of memory\nat step 3"
    # A metric of that name does not take the settings' place.
    assert json.loads(row["settings"]) == {"select": "accuracy", "note": "β"}
    assert "β" in row["settings"]


def test_curves_are_what_was_logged_in_long_form(record):
    run = record("a", "ce", 3, 0.5)
    log = {"step": 4, "epoch": 0.5, "loss": 2.0, "loss_ce": 1.0, "loss_el": 0.25, "alpha": 1.0, "beta": 0.0}
    run.training.extend([log, {"step": 8, "epoch": 1.0, "loss": 1.0}])
    curves_df = curves_table([run, record("b", "0", 0, status="failed")])
    assert (curves_df[["task", "method", "seed"]] == ["a", "ce", 3]).all(axis=None)
    assert curves_df[["epoch", "quantity", "value"]].to_numpy().tolist() == [
        [1.0, "score", 0.625],
        [2.0, "score", 0.5],
        [0.5, "loss_ce", 1.0],
        [0.5, "loss_el", 0.25],
        [0.5, "alpha", 1.0],
        [0.5, "beta", 0.0],
    ]


@pytest.mark.parametrize("name", ["status", "seed", "error", "score"])
def test_a_secondary_metric_is_no_column_of_another_name(record, name):
    run = record("a", "ce", 0, 0.5, **{name: 0.25} if name != "score" else {})
    run.settings["secondary_metrics"] = {name: "odd"}
    assert runs_table([run]).attrs["secondary_metrics"] == {}


def test_a_point_of_a_curve_takes_little_memory(record):
    """Three numbers of 8 bytes and three texts by their numbers: a study of 50,000 runs has a million and more."""
    log = {"step": 1, "epoch": 0.5, "loss": 2.0, "loss_ce": 1.0, "loss_el": 0.25, "alpha": 1.0, "beta": 0.0}
    runs = [record("a task", "a method", seed, 0.5) for seed in range(200)]
    for run in runs:
        run.training.extend([log] * 10)
    curves_df = curves_table(runs)
    assert len(curves_df) == 200 * (2 + 40)
    assert curves_df.memory_usage(index=False, deep=True).sum() < 30 * len(curves_df)


def test_secondary_metrics_have_curves_and_labels(record):
    run = record("a", "ce", 3, 0.5, wrong=0.25, other=0.75)
    run.settings["secondary_metrics"] = {"wrong": "wrong rows memorised"}
    curves_df = curves_table([run])
    assert curves_df[["epoch", "quantity", "value"]].to_numpy().tolist() == [
        [1.0, "wrong", 0.375],
        [2.0, "wrong", 0.25],
        [1.0, "score", 0.625],
        [2.0, "score", 0.5],
    ]
    runs_df = runs_table([run, record("b", "ce", 3, 0.5)])
    assert runs_df.attrs["secondary_metrics"] == {"wrong": "wrong rows memorised"}


def test_scores_from_minus_one_to_one_are_shown_in_percent():
    values = pd.DataFrame({"a": [-1.0, NAN], "b": [0.5, 1.0]})
    assert [scale_of(values * factor) for factor in (1, 1.01)] == [100, 1]


# Scores of any study.


def write(path, text: str):
    path.write_text(text, encoding="utf-8")
    return path


def test_scores_of_any_study(tmp_path):
    text = "\ufeffmethod,score,experiment,gpu\n0,0.5,b,x\nce, 0.25,b,y\nNA,,a,x\n0,1e-3,a,\n"
    runs_df = read_scores(write(tmp_path / "scores.csv", text))
    assert list(runs_df) == ["task", "method", "seed", "status", "score", "gpu"]
    expected = [
        ["a", "0", 0, "done", 0.001],
        ["a", "NA", 0, "missing", NAN],
        ["b", "ce", 0, "done", 0.25],
        ["b", "0", 0, "done", 0.5],
    ]
    assert_frame_equal(runs_df.drop(columns="gpu"), pd.DataFrame(expected, columns=runs_df.columns[:5]))


def test_cells_may_be_quoted_and_the_index_of_pandas_has_no_name(tmp_path):
    table = pd.DataFrame(
        {"task": ["a", "b"], "method": ["0,0.5", "ce"], "score": [1.0, 2.0], "note": ['x\n"y",\n', ""]}
    )
    for name in ("scores.csv", "scores.csv.gz"):
        table.to_csv(tmp_path / name)
        runs_df = read_scores(tmp_path / name)
        assert_frame_equal(runs_df[list(table)], table, check_dtype=False)
        assert runs_df["Unnamed: 0"].tolist() == ["0", "1"]


def test_an_index_of_pandas_is_no_trap(tmp_path):
    table = pd.DataFrame({"task": ["a", "b"], "method": ["0,0.5", "ce"], "seed": [0, 0], "score": [1.0, 2.0]})
    table.set_axis([3, 3]).to_parquet(tmp_path / "repeated.parquet")
    table.set_index(["task", "seed"]).to_parquet(tmp_path / "index.parquet")
    for name in ("repeated", "index"):
        assert read_scores(tmp_path / f"{name}.parquet")["score"].tolist() == [1, 2]


def test_an_empty_cell_is_no_name(tmp_path):
    with pytest.raises(UsageError, match="Expected a method in each row of .*, but row 2 has none"):
        read_scores(write(tmp_path / "scores.csv", "task,method,score\ncola,ce,0.5\ncola, ,0.6\n"))


def test_seeds_of_any_study_are_numbers_or_else_texts(tmp_path):
    text = "experiment,method,score,seed\na,ce,1,10\na,ce,2,9\n"
    assert read_scores(write(tmp_path / "scores.csv", text))["seed"].tolist() == [9, 10]
    text = "experiment,method,score,seed\na,ce,1,fold 2\na,ce,2,fold 1\n"
    assert read_scores(write(tmp_path / "scores.csv", text))["seed"].tolist() == ["fold 1", "fold 2"]
    text = "task,method,score,seed\na,x,0.5,1e30\na,x,0.5,2e30\n"  # too large to tell apart as numbers
    assert read_scores(write(tmp_path / "scores.csv", text))["seed"].tolist() == ["1e30", "2e30"]


def test_the_column_of_tasks_has_two_names(tmp_path):
    tables = [
        read_scores(write(tmp_path / "scores.csv", f"{name},method,score\na,ce,1\n"))
        for name in ("task", "experiment")
    ]
    assert_frame_equal(*tables)


def test_parquet_is_read_too(tmp_path):
    table = pd.DataFrame({"experiment": [1, 1], "method": ["x", "y"], "score": [0.5, None], "seed": [3, 3]})
    table.to_parquet(tmp_path / "scores.parquet")
    runs_df = read_scores(tmp_path / "scores.parquet")
    assert runs_df[["task", "method", "seed", "status"]].to_numpy().tolist() == [
        ["1", "x", 3, "done"],
        ["1", "y", 3, "missing"],
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "experiment;method;score\na;ce;1\n",
            r"line 1 has a single cell, 'experiment;method;score'. Expected ',' between cells",
        ),
        ("task,score\na,1\n", "Expected the columns .* but got 'task', 'score'"),
        ("experiment,method,score\na,ce,high\n", r"to be numbers up to 1e\+100, but row 1 of .* has 'high'"),
        ("experiment,method,score\na,ce,1\na,x,inf\n", r"to be numbers up to 1e\+100, but row 2 of .* has 'inf'"),
        ("experiment,method,score\na,ce,1\na,x,-1e308\n", "row 2 of .* has '-1e308'"),
        (
            "experiment,method,score\na,ce,1\na,ce,2\n",
            "task 'a', method 'ce' is given twice. Add a column named seed",
        ),
        ("experiment,method,score,seed\na,ce,1,0\na,ce,2,0.0\n", "is given twice"),
        ("", "to be a CSV or Parquet file, but it is empty"),
        ('experiment,method,score\na,"ce,1\n', "to be a CSV or Parquet file"),
        ("task,method,score\na,ce,1,\na,el,2,\n", "line 2 has 4 cells, and the header 3. Look for a trailing comma"),
        ("task,method,score\na,ce,0,5\na,el,0,6\n", "line 2 has 4 cells, and the header 3"),
        ("task,method,score\na,ce,1\n\na,el\n", "line 4 has 2 cells, and the header 3"),
        ("task,method,score\na\n", "line 2 has 1 cell, and the header 3"),
        ('task,method,score,note\na,ce,1,"x\n\ny"\na,el,2\n', "line 5 has 3 cells, and the header 4"),
        ("task,method,score,score\na,ce,1,2\n", "line 1 names the column 'score' twice"),
        ("task,method,score\na,ce,1\na, ce,2\n", "one spelling of each method in .*, but got 'ce' and ' ce'"),
        ("task,method,score\ncaf\u00e9,ce,1\ncafe\u0301,x,2\n", "one spelling of each task"),
        ("task,experiment,method,score\na,b,ce,1\n", r"'task' \(also called experiment\) is given twice"),
    ],
)
def test_a_file_that_is_not_one_of_scores_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as error:
        read_scores(write(tmp_path / "scores.csv", text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": [None, "a"]}, "a task in each row of .*, but row 1 has none"),
        ({"method": ["x", None]}, "a method in each row of .*, but row 2 has none"),
        ({"note": [{"a": 1}, {"a": 2}]}, "one value in each cell of .*, but the column 'note' holds several"),
        ({"note": [[1], []]}, "the column 'note' holds several"),
    ],
)
def test_cells_of_parquet_that_are_missing_or_hold_several_values_are_refused(tmp_path, change, message):
    table = {"task": ["a", "a"], "method": ["x", "y"], "score": [0.5, 1.0], **change}
    pd.DataFrame(table).to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(UsageError, match=message):
        read_scores(tmp_path / "scores.parquet")


def test_a_file_of_other_bytes_is_refused_in_one_line(tmp_path):
    for name in ("scores.csv", "scores.parquet"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00experiment")
        with pytest.raises(UsageError, match="to be a CSV or Parquet file") as error:
            read_scores(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="Cannot read .*nowhere.csv: No such file"):
        read_scores(tmp_path / "nowhere.csv")
