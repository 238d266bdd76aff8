from __future__ import annotations

import copy
import json

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    TrainingArguments,
    set_seed,
)

from hf_elmix import MixedLossTrainer
from hf_elmix.text import padding_free
from hf_elmix.text.padding_free import LAST_INPUT, Layout, can_drop_padding, drop_padding

BERT_SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
SIZES = {"distilbert": {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24}}
LENGTHS = (3, 9, 1, 5, 9)


def classifier(kind: str, **changes: object) -> PreTrainedModel:
    sizes = {"vocab_size": 50, "max_position_embeddings": 20, "pad_token_id": 1, **SIZES.get(kind, BERT_SIZES)}
    set_seed(0)
    config = AutoConfig.for_model(kind, num_labels=3, **{**sizes, **changes})
    model = AutoModelForSequenceClassification.from_config(config)
    for weight in model.parameters():  # far from zero everywhere, so that every weight counts
        nn.init.normal_(weight, std=0.3)
    return model


def batch(kind: str, lengths: tuple[int, ...] = LENGTHS, width: int = 11) -> dict[str, torch.Tensor]:
    """Rows padded on the right, one column wider than need be; the padding holds ids that must not count."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 50, (len(lengths), width), generator=generator)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    types = {} if kind == "distilbert" else {"token_type_ids": torch.zeros_like(ids)}
    if kind in ("bert", "electra"):
        types["token_type_ids"] = torch.randint(2, ids.shape, generator=generator)
    ids = ids.where(mask.bool(), torch.tensor(1))
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(len(lengths)) % 3, **types}


@pytest.mark.parametrize("multiple", [1, 32])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", LAST_INPUT)
def test_logits_and_gradients_are_the_padded_batchs(kind, checkpointing, multiple, monkeypatch):
    layout_of = Layout.of
    monkeypatch.setattr(Layout, "of", lambda mask, _: layout_of(mask, multiple))
    padded = classifier(kind).double().eval()
    free = copy.deepcopy(padded)
    drop_padding(free)
    if checkpointing:  # layers are computed a second time, on the way back
        free.gradient_checkpointing_enable()
        free.train()
        for module in free.modules():
            module.training = module.training and not isinstance(module, nn.Dropout)
            if hasattr(module, "dropout") and isinstance(module.dropout, nn.Dropout):
                module.dropout.p = 0.0
    inputs = batch(kind)
    expected, found = padded(**inputs), free(**inputs)
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.loss, expected.loss)
    expected.loss.backward()
    found.loss.backward()
    for (name, one), other in zip(padded.named_parameters(), free.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, msg=name)


@pytest.mark.parametrize("kind", LAST_INPUT)
def test_the_layers_see_no_padding(kind):
    model = classifier(kind).eval()
    drop_padding(model)
    seen: list[tuple[int, ...]] = []
    for module in model.base_model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape[:-1])))
    model(**batch(kind))
    tokens, rows = sum(LENGTHS), len(LENGTHS)
    assert set(seen) <= {(1, tokens), (1, rows), (rows,)}
    assert seen.count((1, rows)) >= 2  # after the last attention there is one token of each row


def test_other_outputs_are_the_padded_batchs():
    """Extra outputs, and batches without a mask, are computed with padding."""
    padded = classifier("bert").eval()
    free = copy.deepcopy(padded)
    drop_padding(free)
    inputs = batch("bert")
    expected, found = (model(**inputs, output_hidden_states=True) for model in (padded, free))
    torch.testing.assert_close(found.hidden_states, expected.hidden_states)
    del inputs["attention_mask"]
    torch.testing.assert_close(free(**inputs).logits, padded(**inputs).logits)


def test_what_is_saved_is_the_same(tmp_path):
    padded, free = classifier("bert"), classifier("bert")
    drop_padding(free)
    assert type(free) is type(padded)
    assert free.state_dict().keys() == padded.state_dict().keys()
    for name, model in (("padded", padded), ("free", free)):
        model(**batch("bert"))
        model.save_pretrained(tmp_path / name)
    for file in (tmp_path / "padded").iterdir():
        assert (tmp_path / "free" / file.name).read_bytes() == file.read_bytes()
    assert "padding_free" not in json.dumps(free.config.to_dict())


def test_dropout_is_drawn_from_the_global_generator():
    model = classifier("bert", hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    drop_padding(model)
    logits = []
    for seed in (0, 0, 1):
        set_seed(seed)
        logits.append(model(**batch("bert")).logits)
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


def test_dropout_of_attention_is_on():
    model = classifier("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    drop_padding(model)
    assert not torch.equal(model(**batch("bert")).logits, model(**batch("bert")).logits)


def test_autocast():
    model = classifier("bert").eval()
    drop_padding(model)
    exact = model(**batch("bert")).logits
    seen: list[tuple[int, ...]] = []
    model.bert.encoder.layer[0].register_forward_pre_hook(lambda layer, args: seen.append(tuple(args[0].shape[:-1])))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**batch("bert"))
    output.loss.backward()
    assert sum(LENGTHS) < 32
    assert seen == [(1, 32)]  # one of few numbers of tokens
    torch.testing.assert_close(output.logits.float(), exact, atol=0.1, rtol=0.1)


def test_layout():
    rows = Layout.of(torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]]))
    assert rows.tokens.tolist() == [0, 1, 3, 6, 7, 8]
    assert rows.first.tolist() == [0, 2, 3]
    values = torch.arange(1, 10).view(3, 3)
    assert rows.select(values).tolist() == [[1, 2, 4, 7, 8, 9]]
    assert rows.pad(rows.select(values)[0]).tolist() == [[1, 2, 0], [4, 0, 0], [7, 8, 9]]


def test_a_layout_that_is_filled_up():
    filled = Layout.of(torch.tensor([[1, 1, 0], [1, 0, 0]]), 4)
    assert filled.tokens.tolist() == [0, 1, 3, 0]
    assert filled.pad(torch.tensor([5, 6, 7, 8])).tolist() == [[5, 6, 0], [7, 0, 0]]
    assert Layout.of(torch.ones(2, 2), 4).tokens.tolist() == [0, 1, 2, 3]


def test_other_models_are_refused():
    others = {"albert": {}, "bert": {"is_decoder": True}}
    for kind, changes in others.items():
        assert not can_drop_padding(AutoConfig.for_model(kind, **changes))
    model = AutoModelForTokenClassification.from_config(AutoConfig.for_model("bert", vocab_size=50, **BERT_SIZES))
    with pytest.raises(ValueError, match="Expected a sequence classifier of bert"):
        drop_padding(model)


def train(folder, stop: int, resume: str | None = None) -> dict[str, torch.Tensor]:
    model = classifier("bert", hidden_dropout_prob=0.1)
    drop_padding(model)
    rows = batch("bert", lengths=(3, 9, 2, 5, 9, 7, 4, 8) * 2)
    args = TrainingArguments(
        str(folder), max_steps=stop, save_steps=3, per_device_train_batch_size=4, use_cpu=True, report_to="none",
        disable_tqdm=True, lr_scheduler_type="constant",
    )  # fmt: skip
    data = Dataset.from_dict({name: values.tolist() for name, values in rows.items()})
    MixedLossTrainer(model=model, args=args, train_dataset=data, mixing="0-0.5").train(resume_from_checkpoint=resume)
    return model.state_dict()


def test_a_resumed_run_is_the_same(tmp_path):
    whole = train(tmp_path / "whole", 6)
    resumed = train(tmp_path / "resumed", 6, resume=str(tmp_path / "whole" / "checkpoint-3"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_it_registers_nothing_that_others_use():
    model = classifier("bert").eval()
    before = model(**batch("bert")).logits
    drop_padding(classifier("bert"))
    assert model.config._attn_implementation != padding_free.NAME
    assert torch.equal(model(**batch("bert")).logits, before)
