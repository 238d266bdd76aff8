from __future__ import annotations

import pytest
import torch
from transformers.utils import logging

from glue_runs.models import load_model, load_tokenizer
from glue_runs.tasks import TASKS
from hf_elmix import UsageError


def test_one_seed_is_one_start(encoder):
    """Every method of a seed must start from the same weights, whatever was drawn before."""
    one = load_model(encoder, TASKS["mnli"], seed=1)
    torch.rand(100)
    same, other = load_model(encoder, TASKS["mnli"], seed=1), load_model(encoder, TASKS["mnli"], seed=2)
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)


def test_labels_have_their_names(encoder):
    config = load_model(encoder, TASKS["mnli"], seed=0).config
    assert config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
    assert config.label2id == {"entailment": 0, "neutral": 1, "contradiction": 2}
    assert config.problem_type == "single_label_classification"


def test_loading_is_silent_and_leaves_the_settings_as_they_were(encoder, capfd):
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_model(encoder, TASKS["cola"], seed=0)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize("load", [load_tokenizer, lambda name: load_model(name, TASKS["cola"], 0)])
@pytest.mark.parametrize("name", ["nobody/nothing", "./nowhere"])
def test_unknown_model(load, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        load(name)
    assert f"Cannot load the model {name!r}" in str(error.value)
    assert "\n" not in str(error.value)
