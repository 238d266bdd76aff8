from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_elmix.errors import UsageError
from hf_elmix.losses.schedules import REGIMES, MixingSchedule
from hf_elmix.study.schema import LARGEST
from hf_elmix.study.spec import Method, RunKey, RunRecord, Study, Task, TrainerInputs

# Others may be using the machine: how long an example takes says nothing.
unhurried = settings(deadline=None, max_examples=60)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3),
    max_leaves=8,
)
OBJECT = st.dictionaries(st.text(max_size=5), JSON, max_size=3)


def no_inputs(seed: int) -> TrainerInputs:
    raise AssertionError("declaring a study must not load anything")


def task(name: str, **settings: Any) -> Task:
    return Task(name, "accuracy", no_inputs, settings)


def study(tasks: str = "ab", methods: tuple[str, ...] = ("ce", "0-0.5"), seeds: tuple[int, ...] = (3, 1)) -> Study:
    return Study(tuple(map(task, tasks)), tuple(map(Method, methods)), seeds, {"learning_rate": 2e-5})


def test_runs_go_block_by_block_in_the_order_they_were_declared():
    assert list(study().runs()) == [
        RunKey("a", "ce", 3),
        RunKey("a", "0-0.5", 3),
        RunKey("a", "ce", 1),
        RunKey("a", "0-0.5", 1),
        RunKey("b", "ce", 3),
        RunKey("b", "0-0.5", 3),
        RunKey("b", "ce", 1),
        RunKey("b", "0-0.5", 1),
    ]


@unhurried
@given(
    st.lists(st.sampled_from("abc"), unique=True),
    st.lists(st.sampled_from(list(REGIMES)), unique=True),
    st.lists(st.integers(0, 9), unique=True, max_size=3),
)
def test_cut_short_anywhere_a_study_has_at_most_one_incomplete_block(tasks, methods, seeds):
    keys = list(study("".join(tasks), tuple(methods), tuple(seeds)).runs())
    assert len(keys) == len(tasks) * len(methods) * len(seeds)
    for cut in range(len(keys) + 1):
        begun = [(key.task, key.seed) for key in keys[:cut]]
        assert sum(begun.count(block) < len(methods) for block in set(begun)) <= 1


def test_each_run_comes_with_its_own_task_and_method():
    for key, (its_task, its_method) in study().runs().items():
        assert (its_task.name, its_method.name) == (key.task, key.method)


def test_settings_hold_schedule_score_arguments_and_what_the_task_adds():
    one = task("a", model="bert", max_length=64)
    whole = Study((one,), (Method("0,0.5"),), (0,), {"learning_rate": 2e-5, "num_train_epochs": 6})
    assert whole.settings(one, whole.methods[0]) == {
        "loss": "mix:0,0.5",
        "select": {"metric": "accuracy", "epoch": "last"},
        "arguments": {"learning_rate": 2e-5, "num_train_epochs": 6},
        "model": "bert",
        "max_length": 64,
    }


def test_settings_name_secondary_metrics():
    task = Task("a", "accuracy", no_inputs, secondary_metrics={"wrong_accuracy": "wrong rows memorised"})
    whole = Study((task,), (Method("ce"),), (0,), {})
    said = {
        "loss": "ce",
        "select": {"metric": "accuracy", "epoch": "last"},
        "arguments": {},
        "secondary_metrics": {"wrong_accuracy": "wrong rows memorised"},
    }
    assert whole.settings(task, whole.methods[0]) == said


def test_arguments_of_a_method_win_over_those_of_the_study_and_change_nothing_else():
    shared = {"learning_rate": 2e-5, "num_train_epochs": 6}
    method = Method("ce", {"learning_rate": 3e-5, "warmup_steps": 10})
    whole = Study((task("a"),), (method, Method("0")), (0,), shared)
    arguments = [whole.settings(whole.tasks[0], one)["arguments"] for one in whole.methods]
    assert arguments == [{"learning_rate": 3e-5, "num_train_epochs": 6, "warmup_steps": 10}, shared]
    assert shared == {"learning_rate": 2e-5, "num_train_epochs": 6}


def test_settings_name_a_schedule_the_same_however_it_was_typed():
    whole = study("a", ("0 0.1 0.2 0.3 0.4 0.5", "0-0.5"), (0,))
    typed, named = (whole.settings(whole.tasks[0], method)["loss"] for method in whole.methods)
    assert typed == named == "mix:0-0.5"


@pytest.mark.parametrize("name", [*REGIMES, "CE", "0@0 0.3@0.5 0.5@0.9"])
def test_a_method_keeps_the_name_it_was_typed_with_and_has_its_schedule(name):
    assert Method(name).name == name
    assert Method(name).loss == MixingSchedule.parse(name)


def test_a_method_may_have_a_schedule_beside_its_name():
    assert Method("slow", loss="0-0.5").loss == MixingSchedule.parse("0-0.5")
    assert Method("ce", loss="0").loss == MixingSchedule.parse("0")
    whole = Study((task("a"),), (Method("slow", {"learning_rate": 1.0}, "0 0.1 0.2 0.3 0.4 0.5"),), (0,), {})
    assert list(whole.runs()) == [RunKey("a", "slow", 0)]
    assert whole.settings(whole.tasks[0], whole.methods[0])["loss"] == "mix:0-0.5"
    with pytest.raises(UsageError, match="Unknown loss 'slow'"):
        Method("slow")
    with pytest.raises(UsageError, match="Unknown loss 'fast'"):
        Method("ce", loss="fast")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["a", ".segments"]}, "another name for the task '.segments', which the study uses itself"),
        ({"tasks": ["study.json"]}, "another name for the task 'study.json'"),
        ({"tasks": "aba"}, "each task once, but got 'a' 2 times"),
        ({"methods": ("ce", "0", "ce")}, "each method once, but got 'ce' 2 times"),
        ({"seeds": (3, 3, 3)}, "each seed once, but got 3 3 times"),
    ],
)
def test_names_given_twice_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        study(**changes)


@pytest.mark.parametrize("name", ["", "fokal", "0-0.6", "0.7", "focal:q=2"])
def test_a_method_without_a_known_loss_is_refused(name):
    with pytest.raises(UsageError, match="Unknown (loss|mixing)"):
        Method(name)


def test_a_key_reads_as_words_and_sorts_seeds_as_numbers():
    assert str(RunKey("cola", "0,0.5", 3)) == "cola 0,0.5 seed 3"
    keys = [RunKey("b", "ce", 0), RunKey("a", "ce", 10), RunKey("a", "ce", 9), RunKey("a", "0", 11)]
    assert sorted(keys) == [keys[3], keys[2], keys[1], keys[0]]


def test_keys_and_declarations_cannot_be_changed_afterwards():
    with pytest.raises(FrozenInstanceError):
        RunKey("a", "ce", 0).seed = 1
    with pytest.raises(FrozenInstanceError):
        study().seeds = (1,)


def test_a_record_as_json_has_the_documented_fields(record_of):
    values = record_of(RunKey("a", "ce", 3)).to_dict()
    assert list(values) == [
        *("key", "status", "scores", "training", "settings", "provenance", "cost", "error", "format"),
    ]
    assert values["key"] == {"task": "a", "method": "ce", "seed": 3}
    assert values["error"] is None


NUMBERS = st.none() | st.floats(-LARGEST, LARGEST) | st.integers(-(2**53), 2**53 - 1)
COUNTS = st.integers(0, 2**53 - 1)
SCORES = st.dictionaries(
    st.text(max_size=5),
    st.builds(
        lambda last, best, by_step: {
            "last": [last, *by_step.values()][-1],
            **{"best": best, "epochs": [*by_step.values()], "steps": [*by_step]},
        },
        *(
            NUMBERS,
            NUMBERS,
            st.dictionaries(COUNTS, NUMBERS, max_size=3).map(lambda values: dict(sorted(values.items()))),
        ),
    ),
    max_size=2,
)
LOGS = st.builds(
    lambda step, values: {**values, "step": step}, COUNTS, st.dictionaries(st.text(max_size=5), NUMBERS, max_size=3)
)
COST = st.fixed_dictionaries(
    {"seconds": st.floats(0, allow_infinity=False), "steps_trained": COUNTS, "steps_inherited": COUNTS}
)


@unhurried
@given(
    st.builds(RunKey, st.text(max_size=8), st.text(max_size=8), st.integers(0, 2**32 - 1)),
    st.sampled_from(["done", "failed", "diverged"]),
    st.tuples(SCORES, st.lists(LOGS, max_size=2), OBJECT, OBJECT, COST),
    st.none() | st.text(max_size=20),
)
def test_a_record_comes_back_from_json_as_it_was(key, status, parts, error):
    scores, training, settings, provenance, cost = parts
    record = RunRecord(key, status, scores, training, settings, provenance, cost, error)
    assert RunRecord.from_json(json.dumps(record.to_dict()).encode()) == record


def test_to_dict_is_a_copy(record_of):
    record = record_of(RunKey("a", "ce", 0))
    record.to_dict()["scores"]["accuracy"]["last"] = 99
    assert record.scores["accuracy"]["last"] == 0.5


def test_what_a_study_sets_itself_and_brackets_in_names_are_refused():
    task = Task("a", "accuracy", lambda seed: TrainerInputs({}))
    for methods, arguments, message in (
        ([Method("ce")], {"seed": 5}, "without 'seed', which a study sets"),
        ([Method("ce", {"output_dir": "x"})], {}, "without 'output_dir'"),
        ([Method("a [b] c", loss="ce")], {}, "without brackets"),
    ):
        with pytest.raises(UsageError, match=message):
            Study((task,), tuple(methods), (0,), arguments)
    study = Study((task,), (Method("ce"),), tuple(np.arange(2)), {})
    assert json.dumps(study.seeds) == "[0, 1]"
