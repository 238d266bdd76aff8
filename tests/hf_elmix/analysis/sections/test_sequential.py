from __future__ import annotations

import json
import re

import pandas as pd
import pytest

from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.sequential import sequential_section, sequential_verdict
from hf_elmix.analysis.sections.summary import verdict
from hf_elmix.analysis.sequential import Rules, looks

NOISE = (0.0, 0.001, -0.001, 0.002, -0.002, 0.001, 0.0, -0.001)


def runs(tasks: tuple[str, ...] = ("mine",), **settings: object) -> pd.DataFrame:
    """0 is better than ce by some 3 points, el worse by as much, 0.5 alike; 0.3 was tried with two seeds only."""
    gains = {"ce": 0.0, "0": 0.03, "el": -0.03, "0.5": 0.0, "0.3": 0.01}
    rows = [
        (task, method, seed, 0.7 + gain + (method != "ce") * NOISE[seed])
        for task in tasks
        for method, gain in gains.items()
        for seed in range(2 if method == "0.3" else 8)
    ]
    table = pd.DataFrame(rows, columns=["task", "method", "seed", "score"])
    return table.assign(status="done", settings=json.dumps({"loss": "ce", **settings}))


RULES = Rules("ce", ("0", "el", "0.5", "0.3", "focal"), margin=0.5)


def test_a_sentence_for_each_verdict():
    scores = runs().pivot(index="seed", columns="method", values="score")
    sentences = sequential_verdict(looks(scores, RULES), RULES)
    assert [re.split(r" \([+−]", sentence)[0] for sentence in sentences] == [
        "Use F = 0 (constant): it is better than CE by about 3.0 points (between 2.7 and 3.3).",
        "F = 0 (constant) is better than CE",
        "It is not known yet whether F = 0.3 (constant) is better or worse than CE",
        "F = 0.5 (constant) and CE are practically equal: they differ by less than 0.5 points",
        "EL is worse than CE",
        "focal cannot be compared with CE: no seed has a score of both.",
        "Everything above holds with 95 % confidence, 99 % for each of 5 methods, although the scores were looked at "
        "after every seed.",
    ]
    assert sentences[2].endswith("(+1.05 points over 2 seeds).")


def test_what_to_do_where_nothing_is_better():
    scores = runs().pivot(index="seed", columns="method", values="score")
    for others, advice in {
        ("el", "0.5"): "Stay with CE: no other method is better.",
        ("el", "0.3"): "Stay with CE for now: no other method is known to be better yet.",
    }.items():
        rules = Rules("ce", others, margin=0.5)
        assert sequential_verdict(looks(scores, rules), rules)[0] == advice


@pytest.mark.parametrize(("settings", "said"), [({}, "on the same rows"), ({"resample": True}, "on rows like these")])
def test_the_section_says_what_varied(settings, said):
    results = StudyResults(runs(**settings), rules=RULES)
    section = sequential_section(results)
    assert said in section.about
    assert section.data["looks"] is results.looks_df
    assert verdict(results)[1].startswith("F = 0 (constant) is better than CE (+3.00 points [2.")
    assert not any("significant" in sentence for sentence in verdict(results))


@pytest.mark.parametrize("results", [StudyResults(runs()), StudyResults(runs(("a", "b")), rules=RULES)])
def test_other_studies_have_no_such_section(results):
    assert sequential_section(results) is None
    assert "significantly" in verdict(results)[0]
