from __future__ import annotations

import pytest
import torch

from hf_elmix.errors import UsageError
from hf_elmix.tables.models import TableClassifier


@pytest.mark.parametrize(("model", "parameters"), [("linear", 5 * 3 + 3), ("hidden", 5 * 5 + 5 + 5 * 3 + 3)])
def test_the_models_have_the_papers_shapes(model, parameters):
    classifier = TableClassifier.seeded(0, 5, 3, model)
    assert sum(parameter.numel() for parameter in classifier.parameters()) == parameters
    assert classifier(torch.zeros(7, 5))["logits"].shape == (7, 3)


def test_weights_depend_on_the_seed_alone():
    before = torch.get_rng_state()
    first, again, other = (TableClassifier.seeded(seed, 5, 3, "hidden") for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.layers.hidden.weight, again.layers.hidden.weight)
    assert not torch.equal(first.layers.hidden.weight, other.layers.hidden.weight)


def test_a_saved_model_is_the_same(tmp_path):
    model = TableClassifier.seeded(0, 5, 3, "hidden")
    model.save_pretrained(tmp_path)
    rows = torch.randn(4, 5)
    assert torch.equal(TableClassifier.from_pretrained(tmp_path)(rows)["logits"], model(rows)["logits"])


def test_another_model_is_refused():
    with pytest.raises(UsageError, match="Expected the model to be one of linear, hidden, but got 'deep'"):
        TableClassifier(5, 3, "deep")
