from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from hf_elmix.analysis.frames import runs_table
from hf_elmix.analysis.ranks import compare
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.secondary_metrics import SecondaryMetric
from hf_elmix.analysis.words import gain_text, interval_text, number, pvalue_text, secondary_sentence, verdict

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


def test_numbers_as_they_are_written():
    assert [gain_text(value, 100) for value in (0.0031, -0.0005, 0, NAN)] == ["+0.31", "−0.05", "+0.00", "n/a"]
    assert [number(value) for value in (-1.005, 2, NAN)] == ["−1.00", "2.00", "n/a"]
    assert number(0.12345, 3) == "0.123"
    assert interval_text(-0.0005, 0.0058, 100) == "[−0.05, 0.58]"
    assert interval_text(NAN, NAN, 100) == ""
    assert [pvalue_text(p) for p in (0.0004, 0.001, 0.0496, 1, NAN)] == ["< 0.001", "0.001", "0.050", "1.000", "n/a"]


def aside(*values: list[float]) -> SecondaryMetric:
    """A share told beside the score: CE, F = 0 and F = 0-0.5 on one task, by seed."""
    table = pd.DataFrame(dict(zip(("ce", "0", "0-0.5"), values, strict=False)))
    table.index = pd.MultiIndex.from_product([["a"], table.index], names=["task", "seed"])
    pairs = compare(table, "ce") if len(values) > 1 else pd.DataFrame()
    return SecondaryMetric("wrong", "wrong rows memorised", table, pd.DataFrame(), pairs)


def test_what_stands_beside_the_score():
    far, near = [0.1, 0.11, 0.12], [0.4, 0.44, 0.45]
    text = "Wrong rows memorised: CE 43.00 %, F = 0 11.00 %, F = 0-0.5 43.00 % (means of 3 runs). Points beside CE: "
    # Differences of 31, 32 and 33 points: a standard error of 1 / sqrt(3), and t = 4.303 with 2 degrees of freedom.
    text += "F = 0 −32.00 [−34.48, −29.52]; the others cannot be told from it."
    assert secondary_sentence(aside([0.41, 0.43, 0.45], far, near), "ce") == text
    text = secondary_sentence(aside([0.4, 0.5, NAN], [0.5, 0.4, 0.3]), "ce")
    assert text.endswith("F = 0 40.00 % (means of 2 to 3 runs). No method can be told from CE in this.")
    assert secondary_sentence(aside([40.0, 50.0]), "ce") == "Wrong rows memorised: CE 45.00 (means of 2 runs)."


def test_a_method_that_helps():
    sentences = verdict(study({"0-0.5": [[0.01, 0.02, 0.03], [0.02, 0.03, 0.01], [-0.01, -0.0, 0.01]]}))
    # Means 2, 2, 0; variances 1 each: sqrt(1 / 9) with 6 degrees of freedom, t = 2.447.
    assert sentences[0] == "F = 0-0.5 beats CE: +1.33 points [0.52, 2.15], higher on 2 of 3 tasks, equal on 1."
    assert sentences[1].startswith("With 3 seeds, a true gain of F = 0-0.5 under ")
    assert sentences[1].endswith("(fewer than 4 in 5 such studies would see it).")
    assert "differ" in sentences[2]
    assert sentences[3:] == ["All 18 runs have a score."]


def test_a_method_that_does_not_is_said_to_take_more_seeds():
    results = study({"0": [[0.01, -0.02], [0.02, -0.002]]})
    sentences = verdict(results)
    assert sentences[0].startswith("F = 0 cannot be told from CE: +0.20 points [−")
    assert sentences[0].endswith("], higher on 1 of 2 tasks.")
    seen = 100 * results.pairs_df.loc["0", "visible"]
    needed = results.seeds_for("0", results.pairs_df.loc["0", "difference"])
    assert f"under {seen:.2f} points could easily" in sentences[1]
    assert sentences[1].endswith(
        f"to see +0.20 points would take {f'about {needed}' if needed else 'more than 256'} seeds of each task."
    )
    assert "do not differ beyond chance (Friedman χ² = 0.00, p = 1.000, over 4 experiments)" in sentences[2]


def test_a_method_that_harms_and_the_best_first():
    sentences = verdict(study({"el": [[-0.1, -0.11], [-0.12, -0.1]], "0": [[0.1, 0.11], [0.12, 0.1]]}))
    assert sentences[0].startswith("F = 0 beats CE: +10.75 points")
    assert sentences[1].startswith("EL falls behind CE: −10.75 points")
    assert sentences[1].endswith("higher on 0 of 2 tasks.")
    assert "all of them are told apart" in sentences[3]


def test_methods_that_are_alike_are_named():
    rows = [[0.01 * k for k in range(1, 7)]]
    sentences = verdict(study({"0": rows, "0,0.5": rows, "el": [[-1e-3] * 6]}))
    assert "by Conover's test these are not told apart: F = 0 = F = 0,0.5." in sentences[-2]


def test_experiments_without_seeds():
    sentences = verdict(study({"x": [[1.0], [2.0], [4.0]]}, base=50))
    assert sentences[0] == "x cannot be told from CE: +2.33 points [−1.46, 6.13], higher on 3 of 3 experiments."
    assert sentences[1].startswith("With 3 experiments, a true gain of x under")
    assert sentences[1].endswith("experiments.")


def test_one_experiment_has_no_spread():
    sentences = verdict(study({"x": [[0.25]]}))
    assert sentences[0] == "x beside CE, from a single experiment: +25.00 points, higher on 1 of 1 experiment."
    assert "no spread was measured" in sentences[1]


def test_differences_that_never_vary():
    sentences = verdict(study({"x": [[0.25, 0.25]]}))
    assert sentences[0].startswith("x beats CE: +25.00 points [25.00, 25.00]")
    assert sentences[1] == "The differences do not vary at all, so any gain would have been seen."


def test_one_method():
    runs_df = pd.DataFrame({"task": ["a"], "method": "el", "seed": 0, "status": "done", "score": 0.5})
    assert verdict(StudyResults(runs_df)) == [
        "Only EL has runs: there is nothing to compare it with.",
        "All 1 runs have a score.",
    ]


def test_runs_without_a_score_are_counted_by_their_reason(small_study):
    sentences = verdict(StudyResults(runs_table(small_study)))
    assert any(
        s.startswith("9 of 11 runs have a score (1 diverged, 1 failed). A run")
        or s.startswith("9 of 11 runs have a score (1 failed, 1 diverged). A run")
        for s in sentences
    )


def test_methods_without_an_experiment_in_common():
    sentences = verdict(study({"x": [[NAN, NAN]], "y": [[0.1, 0.2]]}))
    assert sentences[0].startswith("y cannot be told from CE")
    assert sentences[1] == "x and CE have no experiment in common."
    assert any("methods cannot be ranked" in sentence for sentence in sentences)
    assert any("(2 failed)" in sentence for sentence in sentences)


def test_scores_that_are_not_positive_are_spoken_of():
    sentences = verdict(study({"x": [[0.0, 0.5]]}, base=-0.1))
    assert sentences[-1].startswith("In 1 experiment the best score is zero or negative")


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_scores_there_is_a_verdict(seed):
    rng = np.random.default_rng(seed)
    for _ in range(20):
        shape = (rng.integers(1, 4), rng.integers(1, 4))
        gains = rng.choice([0, 0.1, -0.1, NAN], size=(2, *shape))
        sentences = verdict(study({"0": gains[0].tolist(), "x": gains[1].tolist()}))
        assert all(sentence.endswith(".") and "nan" not in sentence for sentence in sentences)
