from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from hf_elmix.analysis.comparison import compare, seeds_needed
from hf_elmix.analysis.frames import runs_table
from hf_elmix.analysis.numbers import difference_text
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.summary import describe_labels, describe_loss, summary_section, verdict

NAN = math.nan


def study(gains: dict[str, list[list[float]]], base: float = 0.5, status: str = "failed") -> StudyResults:
    """CE scores `base` everywhere; the methods have these gains over it, by task and seed."""
    first = next(iter(gains.values()))
    keys = [(f"p{k}", seed) for k, seeds in enumerate(first) for seed in range(len(seeds))]
    columns = {"ce": [base] * len(keys)}
    columns |= {method: [base + gain for seeds in tasks for gain in seeds] for method, tasks in gains.items()}
    rows = [
        (*key, method, score, status if math.isnan(score) else "done")
        for method, scores in columns.items()
        for key, score in zip(keys, scores, strict=True)
    ]
    return StudyResults(pd.DataFrame(rows, columns=["task", "seed", "method", "score", "status"]))


def test_a_method_that_helps():
    results = study({"0-0.5": [[0.01, 0.02, 0.03], [0.02, 0.03, 0.01], [-0.01, -0.0, 0.01]]})
    sentences = verdict(results)
    # Means 2, 2, 0; variances 1 each: sqrt(1 / 9) with 6 degrees of freedom, t = 2.447.
    assert sentences[0] == (
        "F = 0-0.5 (ramp) is significantly better than CE: +1.33 points [0.52, 2.15], higher on 2 of "
        "3 tasks, equal on 1."
    )
    effect = 100 * results.pairs_df.loc["0-0.5", "minimum_detectable_effect"]
    assert sentences[1] == (
        f"With 3 seeds per task, this study had an 80 % chance of detecting a true difference of {effect:.2f} points "
        "between F = 0-0.5 (ramp) and CE; smaller differences could easily be missed."
    )
    assert "differ" in sentences[2]
    assert sentences[3:] == ["All 18 runs have a score."]


def test_one_of_many_intervals_is_wrong_more_often():
    better = [[0.01, 0.02, 0.03], [0.02, 0.03, 0.01], [-0.01, -0.0, 0.01]]
    none = [[0.01, -0.02, 0.01], [0.02, -0.02, 0.0], [0.01, -0.01, 0.0]]
    said = (
        "Each of these 2 intervals misses the true difference in 5 % of studies, so at least one of them does in up "
    )
    assert [text for text in verdict(study({"0": better, "el": none})) if text.startswith(said + "to 10 %")]
    for gains in ({"0": none, "el": none}, {"0": better}):
        assert not [text for text in verdict(study(gains)) if text.startswith("Each of these")]


def test_how_many_seeds_a_gain_would_take_that_is_not_significant():
    results = study({"0": [[0.01, -0.02], [0.02, -0.002]]})
    sentences = verdict(results)
    assert sentences[0].startswith("F = 0 (constant) is not significantly different from CE: +0.20 points [−")
    assert sentences[0].endswith("], higher on 1 of 2 tasks.")
    effect = 100 * results.pairs_df.loc["0", "minimum_detectable_effect"]
    needed = seeds_needed(results.scores, results.pairs_df.loc["0", "difference"], "ce")["0"]
    assert f"a true difference of {effect:.2f} points between F = 0 (constant) and CE; smaller" in sentences[1]
    assert sentences[1].endswith(
        "could easily be missed. Detecting a difference of +0.20 points would take "
        + ("more than 256" if pd.isna(needed) else f"about {needed}")
        + " seeds per task."
    )
    assert "no significant difference between the methods (Friedman χ² = 0.00, p = 1.000, 2 tasks)" in sentences[2]


def test_a_method_that_harms_and_the_best_first():
    sentences = verdict(study({"el": [[-0.1, -0.11], [-0.12, -0.1]] * 2, "0": [[0.1, 0.11], [0.12, 0.1]] * 2}))
    assert sentences[0].startswith("F = 0 (constant) is significantly better than CE: +10.75 points")
    assert sentences[1].startswith("EL is significantly worse than CE: −10.75 points")
    assert sentences[1].endswith("higher on 0 of 4 tasks.")
    assert "Conover's test finds significant differences between all of them." in sentences[4]


def test_methods_that_are_alike_are_named():
    rows = [[0.01 * k for k in range(1, 7)]]
    sentences = verdict(study({"0": rows, "0,0.5": rows, "el": [[-1e-3] * 6]}))
    assert (
        "Conover's test finds no significant difference between F = 0 (constant) and F = 0,0.5 (switch)."
        in sentences[-2]
    )


def test_tasks_without_seeds():
    sentences = verdict(study({"x": [[1.0], [2.0], [4.0]]}, base=50))
    assert (
        sentences[0] == "x is not significantly different from CE: +2.33 points [−1.46, 6.13], higher on 3 of 3 tasks."
    )
    assert sentences[1].startswith("With 3 tasks, this study had an 80 % chance of detecting a true difference of ")
    assert sentences[1].endswith(" tasks.")


def test_one_block_has_no_variance():
    sentences = verdict(study({"x": [[0.25]]}))
    assert sentences[0] == "x and CE have only one block in common: +25.00 points, higher on 1 of 1 task."
    assert "no variance could be measured" in sentences[1]
    assert sentences[2] == "Ranks cannot be tested, because only one task has scores for every method."


def test_differences_that_never_vary():
    sentences = verdict(study({"x": [[0.25] * 6]}))
    assert sentences[0].startswith("x is significantly better than CE: +25.00 points [25.00, 25.00]")
    assert sentences[1].startswith("The minimum detectable effect is unknown")


@pytest.mark.parametrize("gains", [[[0.25, 0.25]], [[0.25] * 5], [[0.25, 0.25], [0.25, 0.25]], [[0.25], [0.25]]])
def test_few_differences_that_do_not_vary_show_nothing(gains):
    """Scores on few rows are rounded, so that a few differences can be equal by chance."""
    sentences = verdict(study({"x": gains}))
    assert sentences[0].startswith(
        "The difference between x and CE does not vary, in too few blocks for an interval: +25.00 points, higher on "
    )
    assert sentences[1].startswith("The minimum detectable effect is unknown")


def test_one_method():
    runs_df = pd.DataFrame({"task": ["a"], "method": "el", "seed": 0, "status": "done", "score": 0.5})
    assert verdict(StudyResults(runs_df)) == [
        "EL is the only method: there is nothing to compare.",
        "The only run has a score.",
    ]


def test_runs_without_a_score_are_counted_by_their_reason(small_study):
    sentences = verdict(StudyResults(runs_table(small_study)))
    assert any(
        s.startswith("9 of 11 runs have a score (1 diverged, 1 failed). Missing")
        or s.startswith("9 of 11 runs have a score (1 failed, 1 diverged). Missing")
        for s in sentences
    )


def test_methods_without_a_block_in_common():
    sentences = verdict(study({"x": [[NAN, NAN]], "y": [[0.1, 0.2]]}))
    assert sentences[0].startswith("y is not significantly different from CE")
    assert sentences[1] == "x and CE have no block in common."
    assert any("methods cannot be ranked" in sentence for sentence in sentences)
    assert any("(2 failed)" in sentence for sentence in sentences)


def test_best_scores_that_are_not_positive_are_mentioned():
    sentences = verdict(study({"x": [[0.0, 0.5]]}, base=-0.1))
    assert sentences[-1].startswith("In 1 block the best score is zero or negative")


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_scores_there_is_a_verdict(seed):
    rng = np.random.default_rng(seed)
    for _ in range(20):
        shape = (rng.integers(1, 4), rng.integers(1, 4))
        gains = rng.choice([0, 0.1, -0.1, NAN], size=(2, *shape))
        sentences = verdict(study({"0": gains[0].tolist(), "x": gains[1].tolist()}))
        assert all(sentence.endswith(".") and "nan" not in sentence for sentence in sentences)


# What the labels mean.


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ("ce", "cross entropy"),
        ("mix:ce", "cross entropy"),
        ("0.5", "expectation loss, 1 − p(y|x)"),
        ("0", "the mixed loss with focus 0"),
        ("mix:1:4", "the mixed loss with focus 0.375"),
        ("mix:2:1", "the mixed loss with α:β = 2:1"),
        ("0,0.5", "the mixed loss with focus 0, then focus 0.5 from 95 % of the training"),
        ("mix:ce@0 0.5@1/4", "the mixed loss with α:β = 1:0, then focus 0.5 from 25 % of the training"),
        ("0-0.5", "the mixed loss with its focus rising from 0 to 0.5 in 6 steps"),
        ("0.1 0 0.1 0 0.1", "the mixed loss on a schedule of 5 phases"),
        ("focal:gamma=2,alpha=0.25", "focal loss"),
        ("my-loss", ""),
    ],
)
def test_a_loss_in_words(loss, words):
    assert describe_loss(loss) == words


def test_labels_of_a_study(small_study):
    text = describe_labels(StudyResults(runs_table(small_study)))
    assert text.startswith("CE: cross entropy (the baseline). F = 0-0.5 (ramp): the mixed loss with its focus rising ")
    assert " F = 0.3 (constant): the mixed loss with focus 0.3. The focus F is the probability " in text
    assert " On command lines: ce; 0-0.5; 0.3." in text
    assert text.endswith(" Score: accuracy.")


def test_labels_of_other_studies_are_not_guessed():
    runs_df = pd.DataFrame({"task": "a", "method": ["mae", "x"], "seed": 0, "status": "done", "score": [1.0, 2.0]})
    assert describe_labels(StudyResults(runs_df.assign(settings="mine"), baseline="x")) == "x: the baseline."


def test_runs_that_predict_a_single_class_are_counted_and_kept_apart(record):
    scores = {"ce": [0.5, 0.5, 0.25, 0.5], "0": [0.75, 0.5, 0.75, 0.75]}
    records = [record("ab"[k // 2], name, k % 2, value) for name, row in scores.items() for k, value in enumerate(row)]
    runs_df = runs_table(records)
    runs_df["predicted_classes"] = np.where((runs_df["task"] == "a") & (runs_df["seed"] == 1), 1, 2)
    assert verdict(StudyResults(runs_df))[-1] == (
        "2 runs predict a single class for all rows (1 of CE, 1 of F = 0 (constant)). Without their "
        "blocks (3 of 4 remain): "
        f"F = 0 (constant) {difference_text(compare(StudyResults(runs_df).without_collapsed(), 'ce').loc['0'], 100)}."
    )
    assert "single class" not in " ".join(verdict(StudyResults(runs_table(records))))
    all_bad = runs_df.assign(predicted_classes=1)
    assert verdict(StudyResults(all_bad))[-1].endswith("; no block is free of such runs.")


# Figures and tables.


def test_methods_and_pairs_by_hand(record):
    scores = {"ce": [0.5, 0.5, 0.5, 0.5], "0": [0.75, 0.5, 0.625, 0.125]}
    records = [record("ab"[k // 2], name, k % 2, value) for name, row in scores.items() for k, value in enumerate(row)]
    section = summary_section(StudyResults(runs_table(records)))
    tables = {table.name: table for table in section.tables}
    assert list(tables) == ["methods", "pairs", "conover", "profile"]
    # Ratios to the best are 2/3, 1, 4/5, 1 and 1, 1, 1, 1/4: areas above 0.25.
    area = (np.mean([2 / 3, 1, 4 / 5, 1]) - 0.25) / 0.75, (np.mean([1, 1, 1, 0.25]) - 0.25) / 0.75
    assert tables["methods"].texts() == [
        ["CE", "4/4", "2", "+0.00", "1.50", f"{area[0]:.3f}"],
        ["F = 0 (constant)", "4/4", "3", "+0.00", "1.50", f"{area[1]:.3f}"],
    ]
    (row,) = tables["pairs"].texts()
    assert row[:2] == ["F = 0 (constant)", "+0.00"]
    assert row[4:8] == ["1/0/1", "0.62", "1.000", "1.000"]
    assert [row[0] for row in tables["conover"].rows] == [row[0] for row in tables["methods"].rows]
    taus = [f"τ = {tau}" for tau in ("1", "0.99", "0.98", "0.95", "0.9", "0.8", "0.5")]
    assert tables["profile"].header == ["method", *taus]
    assert tables["profile"].texts()[0][1].startswith("0.50 [")
    assert [picture.name for picture in section.pictures[0][1]] == ["profile", "differences", "ranks"]


def test_one_method_has_a_profile_and_no_comparison(record):
    section = summary_section(StudyResults(runs_table([record("a", "ce", 0, 0.5)])))
    assert [table.name for table in section.tables] == ["methods", "profile"]
    assert [picture.name for picture in section.pictures[0][1]] == ["profile"]
    assert set(section.data) == {"methods", "profile", "profile_low", "profile_high"}


def many(count: int) -> StudyResults:
    """Methods with gains that grow, so that the last is the best; the intervals of the first two contain 0."""
    return study({f"m{k:03}": [[k / 1000, k / 1000 + 0.001]] * 2 for k in range(count)})


def test_of_many_methods_the_best_and_the_baseline_are_shown():
    results = many(50)
    shown = ["ce", *(f"m{k:03}" for k in range(31, 50))]
    assert results.shown == shown
    sentences = verdict(results)
    assert [sentence.split()[0] for sentence in sentences[:19]] == shown[:0:-1]
    assert sentences[19].startswith(
        "Of 31 other methods, 29 are significantly better and 0 significantly worse than CE"
    )
    section = summary_section(results)
    captions = [picture.caption for _, pictures in section.pictures for picture in pictures]
    captions += [table.caption for table in section.tables if table.name == "conover"]
    assert all("Shown: CE and the 19 best of 50 other methods by mean difference." in text for text in captions)
    tables = {table.name: table for table in section.tables}
    assert tables["conover"].header == ["method", *("CE" if name == "ce" else name for name in shown)]
    assert len(tables["conover"].rows) == 20
    assert len(tables["pairs"].rows) == 50
    assert section.data["conover"].shape == (51, 52)


def test_of_few_methods_all_are_shown():
    results = many(19)
    assert results.shown == results.methods
    assert results.selection == ""
    assert len(verdict(results)) == 19 + 4


def test_the_bars_of_ranks_join_only_methods_that_are_drawn():
    figure, ax = plt.subplots()
    pictures = [picture for _, group in summary_section(many(50)).pictures for picture in group]
    next(picture for picture in pictures if picture.name == "ranks").draw(ax)
    assert len(ax.texts) == 20
    low, high = ax.get_xlim()
    assert all(low <= text.xy[0] <= high for text in ax.texts)
    plt.close(figure)
