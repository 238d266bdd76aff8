from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

from hf_elmix.analysis.frames import runs_table
from hf_elmix.analysis.predictions import PredictionSummary, summarise_predictions
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.cohorts import cohort_section, flow_of, near_table, pooled_transitions
from hf_elmix.predictions.cohorts import COHORTS, flow_table
from hf_elmix.predictions.records import Predictions
from hf_elmix.study.spec import RunKey

ROWS = 40


def ends(share: float) -> Predictions:
    """All rows are near the boundary after 7 of 9 epochs; a share of them is correct at the end."""
    correct = np.zeros((2, ROWS), dtype=bool)
    correct[1, : round(share * ROWS)] = True
    logits = np.full((ROWS, 2), np.nan)  # no calibration, which takes time
    return Predictions([7, 9], [7, 9], np.zeros(ROWS), np.full((2, ROWS), 0.4), correct, logits)


def results_of(record, shares: dict[str, list[float]], **more) -> StudyResults:
    runs = {RunKey("a", method, seed): share for method, row in shares.items() for seed, share in enumerate(row)}
    records = [record(key.task, key.method, key.seed, 0.5) for key in runs]
    readers = {key: lambda share=share: {"": ends(share)} for key, share in runs.items()}
    return StudyResults(runs_table(records), predictions=readers, **more)


def answers(results: StudyResults) -> list[str]:
    return [sentence for sentence in cohort_section(results).sentences if "near it for both" in sentence]


@pytest.mark.parametrize(
    ("share", "start"),
    [
        ([0.5, 0.55, 0.6], "F = 0 (constant) corrects more of the rows near the boundary than CE does: "),
        ([0.05, 0.1, 0.1], "F = 0 (constant) corrects fewer of the rows near the boundary than CE does: "),
        (
            [0.0, 0.55, 0.6],
            "F = 0 (constant) is not significantly different from CE in how many rows near the boundary it corrects: ",
        ),
        ([0.3, 0.35, 0.4], "F = 0 (constant) corrects as many of the rows near the boundary as CE does: "),
    ],
)
def test_the_answer(record, share, start):
    (said,) = answers(results_of(record, {"ce": [0.3, 0.35, 0.4], "0": share}))
    assert said.startswith(start + "of those near it for both, ")
    assert f"{100 * np.mean(share):.2f} % end correct under F = 0 (constant) and 35.00 % under CE, " in said
    more, fewer = (
        sum(sign * (one - ce) > 0 for one, ce in zip(share, [0.3, 0.35, 0.4], strict=True)) for sign in (1, -1)
    )
    assert f" over 3 blocks (more in {more}, fewer in {fewer}) and 120 rows" in said
    assert ("minimum detectable effect is " in said) == ("not significantly" in start)


def test_several_tasks_are_counted_by_their_means(record):
    runs = {
        RunKey(task, method, seed): 0.3 + 0.2 * (method == "0" and task == "a")
        for task in "abc"
        for method in ("ce", "0")
        for seed in (0, 1)
    }
    readers = {key: lambda share=share: {"": ends(share)} for key, share in runs.items()}
    results = StudyResults(runs_table([record(k.task, k.method, k.seed, 0.5) for k in runs]), predictions=readers)
    (said,) = answers(results)
    assert "over 6 blocks (more in 1 of 3 tasks, fewer in 0) and" in said


def test_a_single_block_does_not_decide(record):
    (said,) = answers(results_of(record, {"ce": [0.25], "0": [0.5]}))
    assert said == (
        "There are too few runs to say whether F = 0 (constant) corrects more of the rows near the "
        "boundary than CE does: of "
        "those near it for both, 50.00 % end correct under F = 0 (constant) and 25.00 % under CE, "
        "+25.00 points over 1 block and "
        "40 rows."
    )


def test_the_answer_is_about_the_rows_that_are_near_for_both(record):
    one = ends(0.75)
    one.correct[:, 20:] = True  # half of the rows are correct at both points
    readers = {RunKey("a", "ce", 0): lambda: {"": ends(0.25)}, RunKey("a", "0", 0): lambda: {"": one}}
    results = StudyResults(runs_table([record("a", method, 0, 0.5) for method in ("ce", "0")]), predictions=readers)
    (said,) = answers(results)
    assert (
        "100.00 % end correct under F = 0 (constant) and 50.00 % under CE, +50.00 points over 1 block and 20 rows."
        in said
    )


def test_the_shares_of_all_and_of_none(record):
    section = cohort_section(results_of(record, {"ce": [0.25, 0.5], "0": [0.5, 0.5]}))
    assert section.sentences[-1] == (
        "Rows that end correct, of those near the boundary: CE 37.50 %, F = 0 (constant) 50.00 %; "
        "far from it: none; correct "
        "before: none."
    )
    assert section.about.endswith("How do the rows of each cohort at 78 % of the training end up?")


def test_tables_by_hand_and_the_row_of_the_paper(record):
    transitions, near = cohort_section(results_of(record, {"ce": [0.25, 0.5], "0": [0.5, 0.5]})).tables
    assert transitions.texts() == [
        ["CE", "2", "0", "n/a", "80", "37.50 [27.69, 48.45]", "0", "n/a"],
        ["F = 0 (constant)", "2", "0", "n/a", "80", "50.00 [39.30, 60.70]", "0", "n/a"],
        [
            "the paper: CE, ResNet32 on CIFAR-100",
            "1",
            "6,766",
            "95.80 [95.30, 96.25]",
            "611",
            "38.46 [34.69, 42.38]",
            "2,623",
            "3.35 [2.73, 4.12]",
        ],
    ]
    assert [row[:7] for row in near.texts()] == [
        ["F = 0 (constant)", whose, "2", "80", "50.00", "37.50", "+12.50"]
        for whose in ("near for both", "each method's own", "near for CE")
    ]


def test_another_baseline(record):
    results = results_of(record, {"ce": [0.25, 0.5], "0": [0.5, 0.5]}, baseline="0")
    section = cohort_section(results)
    assert all("CE" in sentence and "F = 0 (constant)" in sentence for sentence in section.sentences)
    assert [row[6] for row in section.tables[1].texts()] == ["−12.50"] * 3


def test_one_method_is_compared_with_nothing(record):
    section = cohort_section(results_of(record, {"ce": [0.25, 0.5]}))
    assert len(section.sentences) == 1
    assert len(section.tables) == 1
    assert "cohort_moves" not in section.data


def test_pictures_are_those_of_each_method(predicted_study):
    records, readers = predicted_study
    results = StudyResults(runs_table(records), predictions=readers)
    (_, sankey), (_, ridgeline) = cohort_section(results).pictures
    for pictures, name in ((sankey, "sankey"), (ridgeline, "ridgeline")):
        assert [picture.name for picture in pictures] == [f"{name}-{k}" for k in (1, 2, 3)]
        assert [picture.caption for picture in pictures] == ["CE", "F = 0-0.5 (ramp)", "F = 0.3 (constant)"]
    shown = [text.get_text() for text in sankey[1].draw(Figure().subplots()).texts]
    assert (shown[0], shown[4]) == ("67 %\nof the training", "end")
    correct = flow_of(results.prediction_summary, "0-0.5").loc["correct"].sum()
    assert any(text.startswith(f"correct\n{correct} (") for text in shown)
    ticks = [label.get_text() for label in ridgeline[0].draw(Figure().subplots()).get_yticklabels()]
    assert ticks == ["33 %", "67 %", "100 %"]


def test_of_many_methods_eight_have_pictures(record):
    section = cohort_section(results_of(record, {f"m{k}": [0.5] for k in range(10)}))
    assert [len(pictures) for _, pictures in section.pictures] == [8, 8]
    assert len(section.tables[0].rows) == 11


def test_a_failed_run_and_one_without_a_file_do_not_count(predicted_study):
    records, readers = predicted_study
    table = cohort_section(StudyResults(runs_table(records), predictions=readers)).tables[0]
    assert [row[1] for row in table.texts()] == ["4", "3", "3", "1"]


def test_runs_of_other_lengths_say_so(record, predictions):
    readers = {RunKey("a", "ce", seed): lambda n=n: {"": predictions(9, points=n)} for seed, n in enumerate((2, 90))}
    results = StudyResults(runs_table([record("a", "ce", seed, 0.5) for seed in range(2)]), predictions=readers)
    assert cohort_section(results).about.endswith("at 50 to 78 % of the training end up?")


@pytest.mark.parametrize("points", [None, 1])
def test_no_section_without_two_points(record, predictions, points):
    readers = {RunKey("a", "ce", 0): lambda: {"": predictions(9, points=points)}} if points else {}
    assert cohort_section(StudyResults(runs_table([record("a", "ce", 0, 0.5)]), predictions=readers)) is None


NOTHING = pd.DataFrame()


def of_near(near: dict[str, list[tuple[str, str, int, int, int, int, int]]]) -> PredictionSummary:
    """From (task, method, seed, rows, correct, base_rows, base_correct), by whom they are near for."""
    names = ["task", "method", "seed", "rows", "correct", "base_rows", "base_correct"]
    rows = [dict(zip(names, row, strict=True), near_for=who) for who, part in near.items() for row in part]
    return PredictionSummary(NOTHING, NOTHING, pd.DataFrame(rows), NOTHING, NOTHING, {})


def test_pooled_counts_and_shares(predictions):
    sets = {
        RunKey("a", method, seed): {"": predictions(400, seed=seed)} for method in ("ce", "0") for seed in range(3)
    }
    sets[RunKey("b", "ce", 0)] = {"x": predictions(30), "y": predictions(20, points=2)}
    predicted = summarise_predictions({key: lambda one=one: one for key, one in sets.items()}, ["ce", "0"], "ce")
    pooled = pooled_transitions(predicted, ["ce", "0", "el"])
    assert pooled.index.tolist() == ["ce", "0"]
    assert pooled["runs"].tolist() == [4, 3]
    assert pooled["start"].tolist() == pytest.approx([(4 * 5 / 6 + 1 / 2) / 5, 5 / 6])
    expected = sum(flow_table(one) for key, run in sets.items() for one in run.values() if key.method == "ce")
    pd.testing.assert_frame_equal(flow_of(predicted, "ce"), expected)
    row = pooled.loc["ce"]
    for name in COHORTS:
        assert (row[name], row[f"{name}_end"]) == (expected.loc[name].sum(), expected.loc[name, "correct"])
        assert row[f"{name}_low"] < row[f"{name}_share"] == row[f"{name}_end"] / row[name] < row[f"{name}_high"]


def test_the_comparison_is_paired_within_blocks():
    # Shares 3/4, 1/2, 3/4 and 1/2, 1/2, 1/4 of the baseline, whatever the number of rows.
    counts = [("a", "0", 0, 4, 3, 8, 4), ("a", "0", 1, 40, 20, 2, 1), ("a", "0", 2, 8, 6, 8, 2)]
    table = near_table(of_near({"each": counts}), ["ce", "0"], "ce")
    row = table.loc[("each", "0")]
    gains = np.array([0.25, 0, 0.5])
    reach = stats.t.ppf(0.975, 2) * gains.std(ddof=1) / np.sqrt(3)
    assert (row["rows"], row["pairs"], row["better"], row["equal"], row["worse"]) == (52, 3, 2, 1, 0)
    assert (row["share"], row["base_share"]) == pytest.approx((2 / 3, 5 / 12))
    assert (row["low"], row["difference"], row["high"]) == pytest.approx((0.25 - reach, 0.25, 0.25 + reach))
    assert row["sign_p"] == 0.5
    assert row["minimum_detectable_effect"] > 0


def test_blocks_without_such_rows_are_left_out():
    counts = [("a", "0", 0, 0, 0, 4, 2), ("a", "0", 1, 4, 2, 0, 0), ("a", "0", 2, 4, 3, 4, 2)]
    table = near_table(of_near({"both": counts[:2], "each": counts}), ["ce", "0"], "ce")
    assert table.index.tolist() == [("each", "0")]
    assert table.loc[("each", "0"), ["pairs", "difference"]].tolist() == [1, 0.25]
    assert np.isnan(table.loc[("each", "0"), "low"])


def test_nothing_to_compare():
    assert near_table(of_near({}), ["ce"], "ce").empty


def test_methods_are_in_their_order_whatever_that_of_the_runs():
    counts = [("a", method, seed, 4, 3, 4, 2) for seed in range(2) for method in ("x", "0", "0-0.5")]
    table = near_table(of_near({"each": counts, "both": counts}), ["ce", "0", "0-0.5", "x"], "ce")
    assert table.index.tolist() == [(near_for, name) for near_for in ("both", "each") for name in ("0", "0-0.5", "x")]


def alike(seed: int, rows: int = 400) -> dict[str, Predictions]:
    """A run of one of two methods that differ only by chance."""
    rng = np.random.default_rng(seed)
    own = np.random.default_rng(1).normal(0.3, 1, size=rows) + rng.normal(0, 0.5, size=rows)
    gap = own + rng.normal(0, 0.3, size=(2, rows))
    logits = np.full((rows, 2), np.nan)  # no calibration, which takes time
    return {"": Predictions([7, 9], [7, 9], np.zeros(rows), 1 / (1 + np.exp(-gap)), gap > 0, logits)}


def test_rows_selected_by_the_baseline_favour_the_other_method():
    """Why the comparison is about the rows that are near for both: here the methods do not differ."""
    readers = {
        RunKey("a", method, seed): lambda k=2 * seed + place: alike(10 + k)
        for place, method in enumerate(("ce", "same"))
        for seed in range(30)
    }
    table = near_table(summarise_predictions(readers, ["ce", "same"], "ce"), ["ce", "same"], "ce").xs("same", level=1)
    assert table.loc["baseline", "low"] > 0.1
    for near_for in ("both", "each"):
        assert abs(table.loc[near_for, "difference"]) < 0.03
