from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from pandas.testing import assert_frame_equal

from hf_elmix.analysis.predictions import BINS, summarise_predictions
from hf_elmix.diagnostics.calibration import WHEN, calibration_table, reliability_table, temperature_scaled
from hf_elmix.errors import UsageError
from hf_elmix.predictions.cohorts import COHORTS, transition_table
from hf_elmix.predictions.records import Predictions
from hf_elmix.study.spec import RunKey

METHODS = ["0", "ce", "0-0.5"]  # the baseline is not the first


@pytest.fixture
def sets(predictions) -> dict[RunKey, dict[str, Predictions]]:
    """Two tasks, one with two evaluation sets; three methods; two seeds; one run without a file."""
    rows = {"a": {"": 60}, "b": {"matched": 50, "mismatched": 40}}
    found = {}
    for k, (task, method, seed) in enumerate(itertools.product(rows, METHODS, range(2))):
        found[RunKey(task, method, seed)] = {name: predictions(n, seed=k) for name, n in rows[task].items()}
    del found[RunKey("a", "0", 1)]
    return found


def readers_of(sets) -> dict[RunKey, Callable]:
    return {key: lambda one=one: one for key, one in sets.items()}


def cohort(p: Predictions, point: int, row: int) -> str:
    return "correct" if p.correct[point, row] else "near" if p.p_true[point, row] > np.float16(0.2) else "far"


def near_rows(p: Predictions) -> set[int]:
    return {row for row in range(len(p.labels)) if cohort(p, 4, row) == "near"}  # epoch 5 of 6


def test_transitions_are_those_of_each_run_and_set(sets):
    table = summarise_predictions(readers_of(sets), METHODS, "ce").transitions
    groups = table.groupby(["task", "method", "seed", "set"])
    assert len(groups) == 5 + 2 * 6
    for (task, method, seed, name), part in groups:
        expected = transition_table(sets[RunKey(task, method, seed)][name]).reset_index()
        assert_frame_equal(part[expected.columns].reset_index(drop=True), expected)


def test_flows_by_a_plain_loop(sets):
    flows = summarise_predictions(readers_of(sets), METHODS, "ce").flows
    assert set(flows["start"]) == {5 / 6}
    for flow in flows.itertuples():
        p = sets[RunKey(flow.task, flow.method, flow.seed)][flow.set]
        for before, after in itertools.product(COHORTS, repeat=2):
            rows = [r for r in range(len(p.labels)) if (cohort(p, 4, r), cohort(p, 5, r)) == (before, after)]
            assert getattr(flow, f"{before}_{after}") == len(rows)


def test_near_rows_by_a_plain_loop(sets):
    near = summarise_predictions(readers_of(sets), METHODS, "ce").near
    assert len(near) == 3 * 7  # of the eight runs with a baseline run, one has no file
    assert near["rows"].max() > near["rows"].min() >= 0
    for found in near.itertuples():
        counts = {"rows": 0, "correct": 0, "base_rows": 0, "base_correct": 0}
        for name, p in sets[RunKey(found.task, found.method, found.seed)].items():
            base = sets[RunKey(found.task, "ce", found.seed)][name]
            own, other = {
                "each": (near_rows(p), near_rows(base)),
                "baseline": (near_rows(base), near_rows(base)),
                "both": (near_rows(p) & near_rows(base), near_rows(p) & near_rows(base)),
            }[found.near_for]
            counts["rows"] += len(own)
            counts["correct"] += sum(bool(p.correct[-1, row]) for row in own)
            counts["base_rows"] += len(other)
            counts["base_correct"] += sum(bool(base.correct[-1, row]) for row in other)
        assert {name: getattr(found, name) for name in counts} == counts


def test_histograms_are_sums_over_runs_at_sixths(sets):
    table = summarise_predictions(readers_of(sets), METHODS, "ce").histograms
    assert sorted(table.index) == [(method, sixth) for method in sorted(METHODS) for sixth in range(1, 7)]
    assert list(table.loc["ce"].index) == [1, 2, 3, 4, 5, 6]
    all_p = [p.p_true[2] for key, run in sets.items() for p in run.values() if key.method == "0"]
    assert table.loc["0", 3].tolist() == np.histogram(np.concatenate(all_p).astype(float), 20, (0, 1))[0].tolist()


@pytest.mark.parametrize(("points", "sixths"), [(1, [6]), (2, [3, 6]), (3, [2, 4, 6]), (12, [1, 2, 3, 4, 5, 6])])
def test_points_count_at_the_nearest_sixth(predictions, points, sixths):
    seen = {RunKey("a", "ce", 0): lambda: {"": predictions(9, points=points)}}
    assert list(summarise_predictions(seen, ["ce"], "ce").histograms.loc["ce"].index) == sixths


def test_a_run_of_one_point_has_no_start(predictions):
    ends = {RunKey("a", method, 0): lambda: {"": predictions(9, points=1)} for method in ("ce", "0")}
    predicted = summarise_predictions(ends, ["ce", "0"], "ce")
    assert predicted.transitions.empty
    assert predicted.flows.empty
    assert predicted.near.empty


def test_a_baseline_without_predictions(sets):
    without = {key: one for key, one in sets.items() if key.method != "ce"}
    predicted = summarise_predictions(readers_of(without), METHODS, "ce")
    assert predicted.near.empty
    assert set(predicted.flows["method"]) == {"0", "0-0.5"}


def test_different_rows_are_not_compared(sets):
    key = RunKey("a", "0-0.5", 1)
    one = sets[key][""]
    for other in ({"": replace(one, labels=one.labels[::-1])}, {"test": one}):
        with pytest.raises(UsageError, match="a 0-0.5 seed 1: Expected .* on the same rows"):
            summarise_predictions(readers_of({**sets, key: other}), METHODS, "ce")


def test_different_rows_are_not_summed_without_a_baseline_either(sets):
    rows = {key: {"": replace(one[""], labels=one[""].labels[::-1])} for key, one in sets.items() if key.task == "a"}
    mixed = {RunKey("a", "0-0.5", 0): sets[RunKey("a", "0-0.5", 0)], RunKey("a", "0", 0): rows[RunKey("a", "0", 0)]}
    with pytest.raises(UsageError, match=r"seed 0: Expected .* on the same rows, but these differ from those of"):
        summarise_predictions(readers_of(mixed), METHODS, "ce")


def test_an_error_names_the_run(predictions):
    unlabelled = replace(predictions(3), labels=[0, 1, -100])
    with pytest.raises(UsageError, match="a ce seed 7: Expected class ids from 0 to 2"):
        summarise_predictions({RunKey("a", "ce", 7): lambda: {"": unlabelled}}, ["ce"], "ce")


@pytest.mark.parametrize("left", [None, {}])
def test_a_missing_or_empty_file_is_skipped(predictions, left):
    readers = {RunKey("a", "ce", 0): lambda: left, RunKey("a", "0", 0): lambda: {"": predictions(9)}}
    predicted = summarise_predictions(readers, ["ce", "0"], "ce")
    assert set(predicted.flows["method"]) == {"0"}
    assert predicted.near.empty


def test_no_more_than_two_runs_are_held_at_once(predictions):
    alive: list[weakref.ref] = []
    most = 0

    def read(seed: int) -> dict[str, Predictions]:
        nonlocal most
        most = max(most, sum(ref() is not None for ref in alive))
        one = predictions(9, seed=seed)
        alive.append(weakref.ref(one))
        return {"": one}

    keys = [RunKey("a", method, seed) for seed in range(4) for method in METHODS]
    summarise_predictions({key: lambda k=k: read(k) for k, key in enumerate(keys)}, METHODS, "ce")
    assert len(alive) == len(keys)  # each is read once
    assert most <= 2


def calibration_of(*runs: dict[str, Predictions]):
    """The calibration and reliability of runs of one method."""
    readers = {RunKey("a", "ce", seed): lambda run=run: run for seed, run in enumerate(runs)}
    predicted = summarise_predictions(readers, ["ce"], "ce")
    return predicted.calibration, predicted.reliability


def joined(*sets: Predictions) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([one.logits for one in sets]), np.concatenate([one.labels for one in sets])


def test_calibration_is_that_of_the_rows_of_all_sets(predictions):
    sets = {"x": predictions(70), "y": predictions(50, seed=1)}
    table, reliability = calibration_of(sets)
    logits, labels = joined(*sets.values())
    assert_frame_equal(
        table.set_index("when").rename_axis(None).drop(columns=["task", "method", "seed"]),
        calibration_table(logits, labels, bins=BINS),
    )
    assert list(reliability) == [(when, "ce") for when in WHEN]
    scaled = temperature_scaled(logits, labels)[0]
    for when, values in zip(WHEN, (logits, scaled), strict=True):
        expected, found = reliability_table(values, labels, bins=BINS), reliability[when, "ce"]
        assert_frame_equal(found.reset_index(drop=True), expected)
        lower = found.index.to_numpy() / BINS
        assert ((lower < expected["confidence"]) & (expected["confidence"] <= lower + 1 / BINS + 1e-12)).all()


def test_reliability_is_that_of_the_rows_of_all_runs(predictions):
    runs = [predictions(60 + 30 * k, seed=k, learned=k) for k in range(3)]
    total = calibration_of(*({"": one} for one in runs))[1][WHEN[0], "ce"]
    assert_frame_equal(total.reset_index(drop=True), reliability_table(*joined(*runs), bins=BINS))


def test_a_run_with_logits_that_are_not_finite_has_no_calibration(predictions):
    one = predictions(9)
    one.logits[3, 1] = np.nan
    table, reliability = calibration_of({"": one, "x": predictions(5)})
    assert table.empty
    assert reliability == {}


def test_evaluation_sets_with_different_classes_are_refused(predictions):
    one = predictions(5)
    with pytest.raises(UsageError, match=r"same classes on all evaluation sets, but got \[2, 3\]"):
        calibration_of({"x": one, "y": replace(one, logits=one.logits[:, :2])})
