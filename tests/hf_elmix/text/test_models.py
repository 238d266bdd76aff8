from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    DataCollatorWithPadding,
    GPT2Config,
)
from transformers.utils import logging

from glue_runs.tasks import TASKS
from hf_elmix import UsageError
from hf_elmix.text.models import check_model, find_model, load_model, load_tokenizer, load_trained
from hf_elmix.text.rows import load_task
from hf_elmix.text.study import text_task


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


def change_config(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_weights(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


def without(word: str):
    return lambda weights: {name: value for name, value in weights.items() if word not in name}


DAMAGE = {
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
    "cut weights": (lambda folder: os.truncate(folder / "model.safetensors", 10_000), "header"),
    "lost layer": (lambda folder: change_weights(folder, without("layer.1.output")), "not in its files"),
    "empty file": (lambda folder: change_weights(folder, lambda weights: {}), "not in its files"),
    "wider": (lambda folder: change_config(folder, hidden_size=256), "another shape in its files"),
    "more words": (lambda folder: change_config(folder, vocab_size=10_000), "another shape in its files"),
    "deeper": (lambda folder: change_config(folder, num_hidden_layers=3), "not in its files"),
    "shallower": (lambda folder: change_config(folder, num_hidden_layers=1), "is 1 in its config, but its files have"),
    "odd heads": (lambda folder: change_config(folder, num_attention_heads=0), "modulo by zero"),
    "odd activation": (lambda folder: change_config(folder, hidden_act="zzz"), "zzz"),
    "null": (lambda folder: (folder / "config.json").write_text("null"), "NoneType"),
    "tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "added_tokens"),
    "long": (
        lambda folder: (folder / "tokenizer_config.json").write_text('{"model_max_length": "x"}'),
        "not a number",
    ),
    "NaN": (
        lambda folder: change_weights(folder, lambda weights: {name: v / 0 for name, v in weights.items()}),
        "to give 2 finite numbers for each row of the split 'train', but: it gives .nan",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_or_unfitting_model_is_one_line_before_training(kind, encoder, glue, tmp_path):
    damage, message = DAMAGE[kind]
    folder = shutil.copytree(encoder, tmp_path / "model")
    damage(folder)
    rows = load_task(TASKS["cola"], glue("cola"))
    with pytest.raises(UsageError, match=message) as raised:
        text_task(TASKS["cola"], rows, folder, origin={})
    assert len(str(raised.value).splitlines()) == 1


def alone(network, rows):
    """Logits of each row, which is a batch of its own and so is not padded."""
    with torch.no_grad():
        return torch.cat([network(**{name: torch.tensor([row[name]]) for name in row}).logits for row in rows])


DECODER = GPT2Config(
    vocab_size=99, n_embd=8, n_layer=1, n_head=2, n_positions=16, initializer_range=1.0, pad_token_id=7
)
ENCODER = BertConfig(
    vocab_size=99,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=8,
    initializer_range=1.0,
)


@pytest.mark.parametrize("config", [DECODER, ENCODER])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_what_a_model_says(config, side, encoder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(encoder, padding_side=side)  # which pads with 0
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    network, collator = load_trained(tmp_path), DataCollatorWithPadding(load_tokenizer(tmp_path))
    rows = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in ([9, 8], [5, 6, 9, 10, 11])]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_model(network, DatasetDict(train=Dataset.from_list([{**row, "label": 0} for row in rows])), collator)
    assert [str(each.message) for each in caught] == (
        ["Rows are padded on the right: on the left, predictions would change."] if side == "left" else []
    )
    with torch.no_grad():
        assert torch.allclose(network(**collator(rows)).logits, alone(network, rows), atol=1e-5)


class Mean(torch.nn.Module):
    """A classifier that also reads the padding."""

    config, name_or_path = SimpleNamespace(num_labels=2), "mean"

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(logits=input_ids.float().mean(1)[:, None].expand(-1, 2))


def test_a_model_that_reads_padding_is_named(encoder):
    rows = Dataset.from_list([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in ([9, 8], [5, 6, 9])])
    with pytest.warns(UserWarning, match="^Padding changes the predictions of 'mean'"):
        check_model(Mean(), DatasetDict(train=rows), DataCollatorWithPadding(load_tokenizer(encoder)))
