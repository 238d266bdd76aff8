from __future__ import annotations

import copy

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, Trainer, TrainingArguments, set_seed

from hf_elmix.text.used_tokens import keep_used_tokens, used_tokens

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
IDS = [[2, 7, 7, 30], [2, 9, 3, 0], [2, 41, 9, 3], [2, 7, 41, 3]]
USED = [0, 2, 3, 7, 9, 30, 41]
ROWS = Dataset.from_dict({"input_ids": IDS * 4, "labels": [0, 1, 2, 1] * 4})


def model(kind: str = "bert"):
    set_seed(0)
    return AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(kind, num_labels=3, vocab_size=50, max_position_embeddings=20, **SIZES)
    )


def trainer(network, folder, **arguments) -> Trainer:
    args = {"learning_rate": 1e-2, "max_steps": 12, "per_device_train_batch_size": 4, "report_to": "none"}
    return Trainer(
        network, TrainingArguments(str(folder), use_cpu=True, disable_tqdm=True, **args, **arguments), None, ROWS
    )


def trained(network, folder, used: bool, checkpoint: str | None = None, **arguments) -> Trainer:
    made = trainer(network, folder, **arguments)
    if used:
        keep_used_tokens(used_tokens([ROWS], padding=0), made)
    set_seed(1)
    made.train(resume_from_checkpoint=checkpoint)
    return made


def test_used_tokens_are_those_of_the_rows_and_the_padding():
    assert used_tokens([ROWS.select([0]), ROWS.select([2])], padding=0).tolist() == [0, 2, 3, 7, 9, 30, 41]
    assert used_tokens([ROWS.select([0])], padding=5).tolist() == [2, 5, 7, 30]


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "sgd"])
def test_weights_after_training_are_bit_for_bit_those_of_the_whole_matrix(kind, optim, tmp_path):
    """Without clipping, which reads the norm of all gradients at once."""
    network = model(kind)
    before = copy.deepcopy(network.state_dict())
    whole = trained(copy.deepcopy(network), tmp_path, False, optim=optim, max_grad_norm=0.0).model.state_dict()
    some = trained(network, tmp_path, True, optim=optim, max_grad_norm=0.0).model
    name = f"{kind}.embeddings.word_embeddings.weight"
    assert dict(some.named_parameters())[name].shape == (len(USED), 16)
    state = some.state_dict()
    assert state.keys() == whole.keys()
    assert all(torch.equal(state[key], whole[key]) for key in whole)
    moved = (state[name] != before[name]).any(1).nonzero().flatten().tolist()
    assert moved == (USED[1:] if kind == "bert" else USED)  # BERT's padding, which has no gradient, is 0


def test_clipping_rounds_the_norm_differently_and_changes_nothing_else(tmp_path):
    network = model()
    whole = trained(copy.deepcopy(network), tmp_path, False, max_grad_norm=0.1).model.state_dict()
    state = trained(network, tmp_path, True, max_grad_norm=0.1).model.state_dict()
    assert all(torch.allclose(state[key], whole[key], atol=1e-4) for key in whole)


@pytest.mark.parametrize("more", [{"weight_decay": 0.1}, {"optim": "adafactor"}, {"optim": "lion_32bit"}])
def test_all_rows_are_trained_where_one_without_a_gradient_changes(more, tmp_path):
    made = trainer(model(), tmp_path)
    vars(made.args).update(more)
    keep_used_tokens(used_tokens([ROWS], padding=0), made)
    assert type(made.model.get_input_embeddings()) is torch.nn.Embedding


def test_files_hold_the_whole_matrix_and_training_continues_from_them(tmp_path):
    network, steps = model(), {"save_strategy": "steps", "save_steps": 6}
    straight = trained(copy.deepcopy(network), tmp_path / "a", True, **steps).model.state_dict()
    saved = load_file(tmp_path / "a" / "checkpoint-6" / "model.safetensors")
    assert saved["bert.embeddings.word_embeddings.weight"].shape == (50, 16)
    resumed = trained(network, tmp_path / "b", True, str(tmp_path / "a" / "checkpoint-6")).model
    assert all(torch.equal(value, straight[key]) for key, value in resumed.state_dict().items())
    resumed.save_pretrained(tmp_path / "c")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "c").state_dict()
    assert all(torch.equal(value, straight[key]) for key, value in loaded.items())


def test_a_token_that_was_not_among_the_rows_is_an_error_and_not_another_token(tmp_path):
    made = trainer(model(), tmp_path)
    keep_used_tokens(used_tokens([ROWS], padding=0), made)
    with pytest.raises(IndexError):
        made.model(input_ids=torch.tensor([[2, 8]]))
