from __future__ import annotations

import json
import math

import pytest

from hf_elmix.comparison.loop import rules_for, seconds_in
from hf_elmix.errors import UsageError
from hf_elmix.study.spec import Method
from hf_elmix.study.store import Store

NOISE = (0.0, 0.011, -0.004, 0.007, -0.009, 0.003, 0.008, -0.006, 0.002, 0.005)


def scores(method: str, seed: int) -> float:
    """el is worse by some 5 points, 0-0.5 better by some 3 but less evenly; the rest differs from ce by noise."""
    noise = NOISE[seed % 10]
    gain = {"ce": 0.0, "el": -0.05 + 0.3 * noise, "0-0.5": 0.03 + 2 * noise}.get(method, noise)
    return 0.7 + NOISE[(seed + 3) % 10] + gain


def test_it_stops_when_every_method_is_decided_and_trains_none_longer_than_needed(stub, tmp_path):
    run = stub(scores)
    found = run.compare(tmp_path, "el", "0-0.5")
    assert found.verdict == {"el": "worse", "0-0.5": "better"}
    assert found.stopped == "decided"
    seeds = {name: [key.seed for key in run.trained if key.method == name] for name in ("ce", "el", "0-0.5")}
    assert seeds["ce"] == seeds["0-0.5"] == list(range(found.seeds))
    assert seeds["el"] == list(range(len(seeds["el"])))
    assert 3 <= len(seeds["el"]) < found.seeds < 12
    assert len(run.said) == found.seeds
    assert run.said[-1].startswith(f"Seed {found.seeds} of at most 20: EL worse −4.")
    # An ordinary study: everything that was asked for is there.
    store = Store(tmp_path)
    assert {key for key in store.asked()} == {record.key for record in store.records()} == set(run.trained)


def test_it_continues_where_it_stopped(stub, tmp_path):
    whole = stub(scores).compare(tmp_path / "whole", "el", "0-0.5")
    first, later = stub(scores), stub(scores)
    assert first.compare(tmp_path / "parts", "el", "0-0.5", max_seeds=2).stopped == "max_seeds"
    found = later.compare(tmp_path / "parts", "el", "0-0.5")
    assert {key.seed for key in later.trained} == set(range(2, whole.seeds))
    assert found.to_dict() == whole.to_dict()
    again = stub(scores)
    assert again.compare(tmp_path / "parts", "el", "0-0.5").to_dict() == whole.to_dict()
    assert again.trained == []


def test_overwriting_happens_once(stub, tmp_path):
    stub(scores).compare(tmp_path, "el", max_seeds=2)
    run = stub(lambda method, seed: scores(method, seed + 1))
    assert run.compare(tmp_path, "el", max_seeds=3, overwrite=True).seeds == 3
    assert len(run.trained) == 6


def test_no_seed_is_begun_that_would_end_after_the_budget(stub, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("hf_elmix.comparison.loop.time.monotonic", lambda: now[0])

    def slow(method: str, seed: int) -> float:
        now[0] += 50.0  # 100 s for a seed of two methods
        return 0.7 + 0.01 * (-1) ** seed * (method == "0")

    run = stub(slow)
    found = run.compare(tmp_path, "0", budget=350)
    assert (found.stopped, found.seeds) == ("budget", 3)
    assert run.said[0].endswith("at most 4 min left")  # of the budget; 19 more seeds would take longer
    now[0] = 0.0
    assert stub(slow).compare(tmp_path, "0", budget=350).seeds == 6  # seeds that are there take no time


def test_a_failure_stops_it_and_a_method_without_scores_is_not_waited_for(stub, tmp_path):
    run = stub(lambda method, seed: None if method == "el" else scores(method, seed))
    found = run.compare(tmp_path, "el", "0-0.5")
    assert (found.stopped, found.seeds) == ("failed", 1)
    for _ in range(3):
        found = run.compare(tmp_path, "el", "0-0.5")
    assert found.stopped == "no_scores"
    assert found.verdict == {"el": "not yet", "0-0.5": "better"}
    assert "EL cannot be compared with CE: no seed has a score of both." in found.sentences
    assert max(key.seed for key in run.trained if key.method == "el") == 2


def test_the_test_score_is_seen_at_the_end_only(stub, tmp_path):
    seen = []
    run = stub(scores)
    found = run.compare(tmp_path, "el", show=lambda part, line: seen.append((part.test_df, line, part.to_dict())))
    assert all(test is None and values["test"] is None and "test" not in line for test, line, values in seen)
    validation = [scores("ce", seed) for seed in range(found.seeds)]
    assert found.test_df.loc["ce", "score"] == pytest.approx(100 * (sum(validation) / len(validation) - 0.1))
    assert json.loads((tmp_path / "comparison.json").read_text())["test"][1]["method"] == "el"


def test_a_sweep_counts_with_its_best_candidate_and_the_added_baseline_has_it_too(stub, tmp_path):
    rates = ({"learning_rate": 1e-5}, {"learning_rate": 1e-4})
    run = stub(lambda method, seed: scores(method.partition(" [")[0], seed) + 0.02 * ("0.0001" in method))
    found = run.compare(tmp_path, Method("el", sweep=rates), max_seeds=3)
    assert len(run.trained) == 12
    assert found.to_frame()["difference"].iloc[0] == pytest.approx(100 * (scores("el", 0) - scores("ce", 0)))


def test_a_swept_method_that_wins_is_recommended(stub, tmp_path):
    sweep = ({"learning_rate": 1e-5}, {"learning_rate": 1e-4})
    run = stub(lambda method, seed: scores(method.partition(" [")[0], seed), constant=0.5)
    found = run.compare(tmp_path, Method("0-0.5", sweep=sweep))
    assert found.verdict == {"0-0.5": "better"}
    assert found.sentences[0].startswith("Use F = 0-0.5 (ramp): it is better than CE by about")
    assert found.learned_df["runs"].to_dict() == {"ce": found.seeds, "0-0.5": found.seeds}


def test_seeds_that_diverge_are_counted_and_such_a_method_is_not_recommended(stub, tmp_path):
    run = stub(lambda method, seed: math.nan if method == "0-0.5" and seed % 2 else scores(method, seed))
    found = run.compare(tmp_path, "0-0.5")
    lost = found.seeds // 2
    assert found.verdict == {"0-0.5": "better"}
    better = "F = 0-0.5 (ramp) is better where it trains"
    assert found.sentences[0] == f"Stay with CE for now: {better}, but {lost} of its runs got no score."
    said = f"{lost} runs failed or diverged and got no score (F = 0-0.5 (ramp) {lost}): their seeds do not count."
    assert said in found.sentences
    assert found.to_dict()["runs_lost"] == {"ce": 0, "0-0.5": lost}


def test_a_comparison_goes_on_with_all_its_methods_and_the_same_sweep(stub, tmp_path):
    stub(scores).compare(tmp_path / "two", "el", "0", max_seeds=2)
    run = stub(scores)
    with pytest.raises(UsageError, match=r"the baseline ce and el, 0, but got ce and el\. Name them all, or another"):
        run.compare(tmp_path / "two", "el")
    assert run.compare(tmp_path / "two", "el", overwrite=True, max_seeds=2).rules.methods == ("el",)
    more = stub(scores).compare(tmp_path / "two", "el", "0-0.5", "0", max_seeds=2)  # further ones may join
    assert set(more.verdict) == {"el", "0-0.5", "0"}
    swept = Method("el", sweep=({"learning_rate": 1e-5}, {"learning_rate": 1e-4}))
    stub(scores).compare(tmp_path / "swept", swept, max_seeds=2)
    for other in (Method("el"), Method("el", sweep=({"learning_rate": 1e-5}, {"learning_rate": 1e-3}))):
        with pytest.raises(UsageError, match="Expected the sweep with which .*swept' was begun, which has 'ce "):
            stub(scores).compare(tmp_path / "swept", other)


def test_test_scores_are_compared_with_the_same_seeds(stub, tmp_path):
    """EL is decided early, and the later seeds of CE are much better."""
    found = stub(lambda method, seed: scores(method, seed) + 0.1 * (seed > 5)).compare(tmp_path, "el", "0-0.5")
    seeds = int(found.test_df.loc["el", "seeds"])
    assert seeds < found.test_df.loc["ce", "seeds"]
    gains = [scores("el", seed) - scores("ce", seed) for seed in range(seeds)]
    assert found.test_df.loc["el", "difference"] == pytest.approx(100 * sum(gains) / seeds)
    assert f"with the same {seeds} seeds)" in found.sentences[-1]


def test_methods_and_their_baseline():
    named, rules = rules_for([Method("0"), Method("el")], None, 0.5)
    assert [method.name for method in named] == ["ce", "0", "el"]
    assert (rules.baseline, rules.methods, rules.margin) == ("ce", ("0", "el"), 0.5)
    named, rules = rules_for([Method("0"), Method("el")], "el", 0.5)
    assert [method.name for method in named] == ["el", "0"]
    for methods, baseline, message in (
        ([Method("ce")], None, "Expected a method to compare with ce, but got none"),
        ([Method("0")], "1", "Expected the baseline to be one of 0, but got '1'"),
        ([Method("0"), Method("0", loss="el")], None, "Expected each method once, but got '0' twice"),
    ):
        with pytest.raises(UsageError, match=message):
            rules_for(methods, baseline, 0.2)


def test_other_settings_are_refused_before_anything_is_trained(stub, tmp_path):
    stub(scores).compare(tmp_path, "el", max_seeds=2)
    run = stub(scores)
    with pytest.raises(UsageError, match="was 'el' and is now 'mix:0'|holds runs with other settings"):
        run.compare(tmp_path, Method("el", loss="0"), max_seeds=3)
    assert run.trained == []


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("2h", 7200), ("1h30m", 5400), ("0.5d", 43200)])
def test_durations(text, seconds):
    assert seconds_in(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2 hours", "0m", "-1h", "1h30", "1e3s"])
def test_what_is_no_duration(text):
    with pytest.raises(UsageError, match="Expected a duration such as 90s, 30m, 2h or 1h30m, but got"):
        seconds_in(text)


def test_infinite_ends_are_null_in_json(stub, tmp_path):
    values = stub(scores).compare(tmp_path, "el", max_seeds=2).to_dict()
    assert values["verdicts"] == [
        {
            "method": "el",
            "seeds": 2,
            "difference": pytest.approx(-4.835),
            "low": None,
            "high": None,
            "verdict": "not yet",
        }
    ]
    assert math.isfinite(values["margin"])
