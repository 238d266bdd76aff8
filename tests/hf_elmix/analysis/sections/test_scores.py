from __future__ import annotations

from hf_elmix.analysis.frames import runs_table
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.scores import score_table, scores_section


def test_scores_by_hand(record):
    failed = [record("a", "0", seed, status="failed") for seed in range(3)]
    done = [record("a", "ce", 0, 0.5), record("b", "ce", 0, 0.25), record("b", "ce", 1, 0.5)]
    table = score_table(StudyResults(runs_table([*failed, *done])))
    assert table.header == ["task", "CE", "F = 0 (constant)"]
    assert table.texts() == [["a", "50.00 (1/3)", "no score (0/3)"], ["b", "37.50 ± 17.68 (2)", "no run"]]


def test_differences_by_hand(record):
    scores = {("a", "ce"): [0.5, 0.5], ("a", "0"): [0.75, 0.5], ("b", "ce"): [0.5], ("b", "0"): [0.25]}
    records = [record(*key, seed, score) for key, row in scores.items() for seed, score in enumerate(row)]
    _, gains = scores_section(StudyResults(runs_table(records))).tables
    # Differences of 25 and 0 points: a standard error of 12.5, and t = 12.706 with one degree of freedom.
    assert gains.texts() == [["a", "+12.50 [−146.33, 171.33]"], ["b", "−25.00"]]


def test_one_method_has_no_differences(record):
    section = scores_section(StudyResults(runs_table([record("a", "ce", 0, 0.5)])))
    assert [table.name for table in section.tables] == ["scores"]
    assert set(section.data) == {"scores", "summary"}
