from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from hf_elmix.analysis.frames import runs_table
from hf_elmix.analysis.moves import flow_of
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.cohorts import cohort_section
from hf_elmix.predictions.records import Predictions
from hf_elmix.study.spec import RunKey

ROWS = 40


def ends(share: float) -> Predictions:
    """All rows are near the boundary after 7 of 9 epochs; a share of them, in quarters, is right at the end."""
    right = np.zeros((2, ROWS), dtype=bool)
    right[1, : round(share * ROWS)] = True
    nothing = np.full((ROWS, 2), np.nan)  # calibration is not asked for here, and takes its time
    return Predictions([7, 9], [7, 9], np.zeros(ROWS), np.full((2, ROWS), 0.4), right, nothing)


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
        ([0.5, 0.55, 0.6], "F = 0 moves more of the rows near the boundary than CE does: "),
        ([0.05, 0.1, 0.1], "F = 0 moves fewer of the rows near the boundary than CE does: "),
        ([0.0, 0.55, 0.6], "Whether F = 0 moves more of the rows near the boundary than CE does cannot be told: "),
        ([0.3, 0.35, 0.4], "F = 0 moves as many of the rows near the boundary as CE does: "),
    ],
)
def test_what_is_said(record, share, start):
    (said,) = answers(results_of(record, {"ce": [0.3, 0.35, 0.4], "0": share}))
    assert said.startswith(start + "of those near it for both, ")
    assert f"{100 * np.mean(share):.2f} % end right beside 35.00 %, " in said
    more, fewer = (
        sum(sign * (one - ce) > 0 for one, ce in zip(share, [0.3, 0.35, 0.4], strict=True)) for sign in (1, -1)
    )
    assert f" over 3 experiments (more in {more}, fewer in {fewer}) and 120 rows" in said
    assert ("easily have been missed" in said) == start.startswith("Whether")


def test_a_single_experiment_tells_nothing(record):
    (said,) = answers(results_of(record, {"ce": [0.25], "0": [0.5]}))
    assert said == (
        "Whether F = 0 moves more of the rows near the boundary than CE does cannot be told: of those near it for "
        "both, 50.00 % end right beside 25.00 %, +25.00 points over 1 experiment and 40 rows."
    )


def test_the_answer_is_about_the_rows_that_are_near_for_both(record):
    one = ends(0.75)
    one.right[:, 20:] = True  # half of the rows are right all along
    readers = {RunKey("a", "ce", 0): lambda: {"": ends(0.25)}, RunKey("a", "0", 0): lambda: {"": one}}
    results = StudyResults(runs_table([record("a", method, 0, 0.5) for method in ("ce", "0")]), predictions=readers)
    (said,) = answers(results)
    assert "100.00 % end right beside 50.00 %, +50.00 points over 1 experiment and 20 rows." in said


def test_the_shares_of_all_and_of_none(record):
    section = cohort_section(results_of(record, {"ce": [0.25, 0.5], "0": [0.5, 0.5]}))
    assert section.sentences[-1] == (
        "Of all wrong rows near the boundary end right: CE 37.50 %, F = 0 50.00 %; of all wrong rows far from it: "
        "there were none; of all right rows: there were none."
    )
    assert section.about.endswith("of the rows of each kind at 78 % of the training?")


def test_tables_by_hand_and_the_paper_s_row(record):
    transitions, moves = cohort_section(results_of(record, {"ce": [0.25, 0.5], "0": [0.5, 0.5]})).tables
    assert transitions.texts() == [
        ["CE", "2", "0", "n/a", "80", "37.50 [27.69, 48.45]", "0", "n/a"],
        ["F = 0", "2", "0", "n/a", "80", "50.00 [39.30, 60.70]", "0", "n/a"],
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
    assert [row[:7] for row in moves.texts()] == [
        ["F = 0", whose, "2", "80", "50.00", "37.50", "+12.50"]
        for whose in ("near for both", "near for each, its own", "near for CE")
    ]


def test_another_baseline(record):
    results = results_of(record, {"ce": [0.25, 0.5], "0": [0.5, 0.5]}, baseline="0")
    section = cohort_section(results)
    assert all("CE" in sentence and "F = 0" in sentence for sentence in section.sentences)
    assert [row[6] for row in section.tables[1].texts()] == ["−12.50"] * 3


def test_one_method_is_compared_with_nothing(record):
    section = cohort_section(results_of(record, {"ce": [0.25, 0.5]}))
    assert len(section.sentences) == 1
    assert len(section.tables) == 1
    assert "cohort_moves" not in section.data


def test_pictures_are_those_of_each_method(predicted_study):
    records, readers = predicted_study
    results = StudyResults(runs_table(records), predictions=readers)
    flows, histograms = cohort_section(results).pictures.values()
    for pictures, name in ((flows, "flow"), (histograms, "histograms")):
        assert [picture.name for picture in pictures] == [f"{name}-{k}" for k in (1, 2, 3)]
        assert [picture.caption for picture in pictures] == ["CE", "F = 0-0.5", "F = 0.3"]
    shown = [text.get_text() for text in flows[1].draw(Figure().subplots()).texts]
    assert shown[:2] == ["67 %\nof the training", "end"]
    right = flow_of(results.predicted, "0-0.5").loc["right"].sum()
    assert any(text.startswith(f"right\n{right} (") for text in shown)
    ticks = [label.get_text() for label in histograms[0].draw(Figure().subplots()).get_yticklabels()]
    assert ticks == ["33 %", "67 %", "100 %"]


def test_of_many_methods_eight_have_pictures(record):
    section = cohort_section(results_of(record, {f"m{k}": [0.5] for k in range(10)}))
    assert [len(pictures) for pictures in section.pictures.values()] == [8, 8]
    assert len(section.tables[0].rows) == 11


def test_a_failed_run_and_one_without_a_file_do_not_count(predicted_study):
    records, readers = predicted_study
    table = cohort_section(StudyResults(runs_table(records), predictions=readers)).tables[0]
    assert [row[1] for row in table.texts()] == ["4", "3", "3", "1"]


def test_runs_of_other_lengths_say_so(record, predictions):
    readers = {RunKey("a", "ce", seed): lambda n=n: {"": predictions(9, points=n)} for seed, n in enumerate((2, 90))}
    results = StudyResults(runs_table([record("a", "ce", seed, 0.5) for seed in range(2)]), predictions=readers)
    assert cohort_section(results).about.endswith("at 50 to 78 % of the training?")


@pytest.mark.parametrize("points", [None, 1])
def test_nothing_to_tell(record, predictions, points):
    readers = {RunKey("a", "ce", 0): lambda: {"": predictions(9, points=points)}} if points else {}
    assert cohort_section(StudyResults(runs_table([record("a", "ce", 0, 0.5)]), predictions=readers)) is None
