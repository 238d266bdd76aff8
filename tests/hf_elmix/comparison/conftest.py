"""A study of one task whose runs take no time: a method's score is a function of the seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from typing import Any

import pytest

from hf_elmix.comparison.loop import rules_for, run_comparison
from hf_elmix.comparison.result import Comparison
from hf_elmix.study.shared_prefixes import Branch, Outcome
from hf_elmix.study.spec import Method, RunKey, RunRecord, Select, Study, Task, TrainerInputs
from hf_elmix.study.store import Store

ROWS = {"data_rows": {"train": 5000, "validation": 1000, "test": 1043}}
SELECT = Select("accuracy", chosen_on="validation", scored_on="validation")


def no_inputs(seed: int) -> TrainerInputs:
    raise AssertionError("a stand-in trains nothing")


class Stub:
    """Stands in for `run_branch`.

    `scores` gives the score of a method at a seed: None if the run fails, NaN if it diverges. Runs in `one_class`
    predict a single class. `constant` is the accuracy of always predicting the most frequent one.

    Attributes:
        trained: The runs, in order.
    """

    def __init__(
        self,
        scores: Callable[[str, int], float | None],
        one_class: Container[tuple[str, int]] = (),
        constant: float = 0.0,
    ) -> None:
        self.scores, self.one_class, self.constant = scores, one_class, constant
        self.trained: list[RunKey] = []
        self.said: list[str] = []

    def __call__(self, study: Study, store: Store, branch: Branch, progress: Any, **_: Any) -> Outcome:
        self.trained += branch.keys
        methods = {method.name: method for method in study.candidates}
        return Outcome(branch, tuple(self.record(study, methods[key.method], key) for key in branch.keys))

    def record(self, study: Study, method: Method, key: RunKey) -> RunRecord:
        score = self.scores(key.method, key.seed)
        values = (
            {} if score is None or math.isnan(score) else {"validation_accuracy": score, "test_accuracy": score - 0.1}
        )
        classes = 1 if (key.method, key.seed) in self.one_class else 2
        counts = {"validation_predicted_classes": classes, "validation_constant_accuracy": self.constant}
        values |= counts if values else {}
        scores = {name: {"last": x, "best": x, "epochs": [x], "steps": [1]} for name, x in values.items()}
        status, error = ("failed", "boom") if score is None else ("done" if values else "diverged", None)
        cost = {"seconds": 1.0, "steps_trained": 1, "steps_inherited": 0}
        return RunRecord(key, status, scores, [], study.settings(study.tasks[0], method), ROWS, cost, error)

    def compare(self, folder: Any, *methods: str | Method, margin: float = 0.2, **options: Any) -> Comparison:
        own = [method if isinstance(method, Method) else Method(method) for method in methods]
        named, rules = rules_for(own, None, margin)
        study = Study((Task("mine", SELECT, no_inputs, {"rows": "few"}),), tuple(named), (0,), {})

        def show(found: Comparison, line: str) -> None:
            self.said.append(line)

        options = {"run": self, "show": show, "sharing": False, **options}
        return run_comparison(study, Store(folder), rules, **options)


@pytest.fixture
def stub() -> type[Stub]:
    return Stub
