from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from glue_runs.tasks import TASKS
from hf_elmix import UsageError
from hf_elmix.text.models import find_model, load_model, load_tokenizer


def test_the_seed_determines_the_head(encoder):
    """With the same seed, every method must start from the same weights, whatever was drawn before."""
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


def test_a_model_is_found_once(encoder, tmp_path):
    """A model that has been found is loaded from the same files later on."""
    folder = shutil.copytree(encoder, tmp_path / "model")
    source = find_model(str(folder))
    assert find_model(source) is source
    model = load_model(source, TASKS["cola"], seed=0)
    assert model.name_or_path == str(folder)
    shutil.rmtree(folder)
    with pytest.raises(UsageError, match="Cannot load the model"):
        load_model(source, TASKS["cola"], seed=0)


def test_damaged_weights(encoder, tmp_path):
    folder = shutil.copytree(encoder, tmp_path / "model")
    whole = (folder / "model.safetensors").read_bytes()
    for damaged in (b"", b"no weights", whole[: len(whole) // 2]):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(UsageError) as error:
            load_model(str(folder), TASKS["cola"], seed=0)
        assert "\n" not in str(error.value)


def test_code_of_a_model_is_not_run(encoder, tmp_path):
    folder = Path(shutil.copytree(encoder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["model_type"], config["auto_map"] = "own", {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    load_tokenizer(str(folder))
    with pytest.raises(UsageError):
        load_model(str(folder), TASKS["cola"], 0)
    assert not (tmp_path / "ran").exists()
