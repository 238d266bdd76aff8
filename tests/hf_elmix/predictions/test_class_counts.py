from __future__ import annotations

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier

from hf_elmix.predictions.class_counts import class_counts, constant_accuracy_of


@pytest.mark.parametrize("labels", [[0, 0, 1], [2, 2, 2], [0, 1, 2, 3], [5]])
def test_the_accuracy_of_a_constant_is_that_of_scikit_learns_dummy(labels):
    rows = np.zeros((len(labels), 1))
    dummy = DummyClassifier(strategy="most_frequent").fit(rows, labels)
    found = class_counts(dummy.predict(rows), np.array(labels))
    assert found == {"predicted_classes": 1.0, "constant_accuracy": pytest.approx(dummy.score(rows, labels))}


def test_it_is_named_after_the_evaluation_set_of_the_accuracy():
    names = ["accuracy", "validation_accuracy", "f1", "accuracy_f1"]
    assert [constant_accuracy_of(name) for name in names] == [
        "constant_accuracy",
        "validation_constant_accuracy",
        "",
        "",
    ]
