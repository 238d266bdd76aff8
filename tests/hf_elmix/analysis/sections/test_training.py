from __future__ import annotations

from matplotlib.figure import Figure

from hf_elmix.analysis.frames import curves_table, runs_table
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.training import training_section


def test_curves_of_each_task_and_the_weights_of_the_first(record):
    records = [record(task, "ce", seed, 0.5) for task in "ab" for seed in (0, 1)]
    for one in records:
        weights = {"alpha": 1.0, "beta": 2.0 if one.key.task == "a" else 3.0}
        one.training.append({"epoch": 1.0, "loss_ce": 1.5, "loss_el": 0.5, **weights})
    section = training_section(StudyResults(runs_table(records), curves_table(records)))
    assert [heading for heading, _ in section.pictures] == ["a", "b", "Weights of the loss"]
    scores, losses = section.pictures[1][1]
    assert scores.draw(Figure().subplots()).containers[0].lines[0].get_ydata().tolist() == [62.5, 50.0]
    assert [line.get_ydata().tolist() for line in losses.draw(Figure().subplots()).get_lines()] == [[1.5], [0.5]]
    (weights,) = section.pictures[2][1]
    assert [line.get_ydata().tolist() for line in weights.draw(Figure().subplots()).get_lines()] == [[1.0], [2.0]]


def test_curves_of_the_first_eight_tasks(record):
    records = [record(f"t{k}", "ce", 0, 0.5) for k in range(11)]
    section = training_section(StudyResults(runs_table(records), curves_table(records)))
    assert section.about.endswith("3 more tasks can be found in data/curves.csv.")
    headings = [heading for heading, _ in section.pictures]
    assert headings == [*(f"t{k}" for k in (0, 1, 10, 2, 3, 4, 5, 6)), "Weights of the loss"]


def test_a_task_with_the_name_of_another_heading_hides_nothing(record):
    records = [record("Weights of the loss", "ce", 0, 0.5)]
    section = training_section(StudyResults(runs_table(records), curves_table(records)))
    names = [[picture.name for picture in pictures] for _, pictures in section.pictures]
    assert names == [["score-0", "loss-0"], ["weights"]]


def test_nothing_was_logged(record):
    runs_df = runs_table([record("a", "ce", 0, 0.5)])
    assert training_section(StudyResults(runs_df)) is None
    assert training_section(StudyResults(runs_df, curves_table([]))) is None
