"""Every kind of model with one true class, as a tiny model of the real class, through the mixin and the function.

Each is compared with a step of gradient descent on ``alpha * CE + beta * (1 - p_y)`` that is written out here, and
with the stock Trainer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForSequenceClassification,
    BertForTokenClassification,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    ViTConfig,
    ViTForImageClassification,
    default_data_collator,
    set_seed,
)

from glue_runs.pocket.encoder import encoder_path
from hf_elmix import MixedLossMixin, MixedLossTrainer, mixed_loss_func

ROWS, RATE = 8, 0.1
MIXING, ALPHA, BETA = "0.3", 1.0, 2.5
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": 3}
WORDS = {"vocab_size": 400, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
T5_SIZES = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
BERT = BertConfig(**SIZES, **STILL, **WORDS)
LLAMA = LlamaConfig(**SIZES, **WORDS)
GPT2 = GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=16, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **WORDS)
T5 = T5Config(**T5_SIZES, decoder_start_token_id=0, **WORDS)
VIT = ViTConfig(**SIZES, **STILL, image_size=8, patch_size=4)
AST = ASTConfig(**SIZES, **STILL, max_length=16, num_mel_bins=16, patch_size=8, frequency_stride=8, time_stride=8)
EXPERTS = {"num_local_experts": 4, "router_aux_loss_coef": 0.5, "output_router_logits": True}
MIXTRAL = MixtralConfig(**SIZES, **WORDS, **EXPERTS, num_key_value_heads=2)


class MixedSeq2SeqTrainer(MixedLossMixin, Seq2SeqTrainer):
    """As in the documentation."""


@dataclass(frozen=True)
class Kind:
    """A kind of model, what it trains on, and which Trainers train it.

    Attributes:
        make: Its class, or what makes it of a configuration.
        config: Its configuration.
        columns: Values of each column, by its name.
        collator: Makes the collator for a model; it draws the same every time.
        trainer: The stock Trainer.
        mixed: The Trainer with the mixin.
    """

    make: Callable[[Any], nn.Module]
    config: Any
    columns: dict[str, torch.Tensor]
    collator: Callable[[nn.Module], Any] = lambda model: default_data_collator
    trainer: type[Trainer] = Trainer
    mixed: type[Trainer] = MixedLossTrainer

    def model(self) -> nn.Module:
        set_seed(0)
        return self.make(self.config)

    def rows(self) -> list[dict[str, torch.Tensor]]:
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*self.columns.values(), strict=True)]


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(3, 300, (ROWS, *shape), generator=torch.Generator().manual_seed(len(shape)))


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(ROWS, *shape, generator=torch.Generator().manual_seed(0))


def some(labels: torch.Tensor) -> torch.Tensor:
    """Labels of which many are ignored, among them the first of each row, which nothing predicts."""
    generator = torch.Generator().manual_seed(0)
    ignored = torch.rand(labels.shape, generator=generator) < torch.rand(ROWS, 1, generator=generator)
    ignored[:, 0] = True
    return labels.masked_fill(ignored, -100)


def with_lora(config: Any) -> nn.Module:
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=2, lora_dropout=0.0, init_lora_weights=False)
    return peft.get_peft_model(BertForSequenceClassification(config), lora)


def masking(model: nn.Module) -> Any:
    collator = DataCollatorForLanguageModeling(AutoTokenizer.from_pretrained(encoder_path()))

    def mask(rows: list[dict[str, Any]]) -> Any:
        with torch.random.fork_rng(devices=[]):  # the collator's own seed does not count in its first batch everywhere
            torch.manual_seed(0)
            return collator(rows)

    return mask


def seq2seq(model: nn.Module) -> Any:
    return DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(encoder_path()), model)


CLASSES = torch.arange(ROWS) % 3
TEXT, TEXT_LABELS = tokens(6), some(tokens(6))
KINDS = {
    "sequences": Kind(BertForSequenceClassification, BERT, {"input_ids": TEXT, "labels": CLASSES}),
    "tokens": Kind(BertForTokenClassification, BERT, {"input_ids": TEXT, "labels": some(TEXT % 3)}),
    "masked": Kind(BertForMaskedLM, BERT, {"input_ids": tokens(12)}, masking),
    "causal": Kind(LlamaForCausalLM, LLAMA, {"input_ids": TEXT, "labels": TEXT_LABELS}),
    "causal-gpt2": Kind(GPT2LMHeadModel, GPT2, {"input_ids": TEXT, "labels": TEXT_LABELS}),
    "experts": Kind(MixtralForCausalLM, MIXTRAL, {"input_ids": TEXT, "labels": TEXT_LABELS}),
    "encoder-decoder": Kind(
        T5ForConditionalGeneration, T5, {"input_ids": TEXT, "labels": TEXT_LABELS}, seq2seq, Seq2SeqTrainer,
        MixedSeq2SeqTrainer,
    ),
    "images": Kind(ViTForImageClassification, VIT, {"pixel_values": numbers(3, 8, 8), "labels": CLASSES}),
    "audio": Kind(ASTForAudioClassification, AST, {"input_values": numbers(16, 16), "labels": CLASSES}),
    "choices": Kind(BertForMultipleChoice, BERT, {"input_ids": tokens(4, 6), "labels": CLASSES}),
    "lora": Kind(with_lora, BERT, {"input_ids": TEXT, "labels": CLASSES}),
}  # fmt: skip
CAUSAL = ("causal", "causal-gpt2", "experts")
WAYS = {name: ("mixin",) if name == "experts" else ("mixin", "function") for name in KINDS}


def trainer_of(kit, name: str, way: str, mixing: str = "ce", **given: Any) -> Trainer:
    """A trainer that takes one step on all rows, in one of the three ways."""
    kind, model = KINDS[name], KINDS[name].model()
    if way == "function":
        function = mixed_loss_func(mixing)
        given |= {"compute_loss_func": function, "callbacks": [function]}
    elif way == "mixin":
        given |= {"mixing": mixing}
    return kit.trainer(
        kind.mixed if way == "mixin" else kind.trainer, model=model, train_dataset=kind.rows(),
        eval_dataset=kind.rows(), data_collator=kind.collator(model), arguments=Seq2SeqTrainingArguments,
        **{"optim": "sgd", "learning_rate": RATE, "max_grad_norm": 0, "max_steps": 1, "remove_unused_columns": False,
           "train_sampling_strategy": "sequential", "per_device_train_batch_size": ROWS, **given},
    )  # fmt: skip


def by_hand(name: str) -> tuple[nn.Module, float]:
    """The model after one step, written out, and the loss."""
    model = KINDS[name].model().train()
    batch = KINDS[name].collator(model)(KINDS[name].rows())
    outputs = model(**batch)
    logits, labels = outputs.logits, batch["labels"]
    if name in CAUSAL:
        logits, labels = logits[:, :-1], labels[:, 1:]
    p_y = logits.softmax(-1)[labels != -100].gather(-1, labels[labels != -100][:, None])
    loss = (-ALPHA * p_y.log() + BETA * (1 - p_y)).mean()
    if name == "experts":
        loss = loss + 0.5 * outputs.aux_loss
    loss.backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight -= 0 if weight.grad is None else RATE * weight.grad
    return model, loss.item()


@pytest.mark.parametrize(("name", "way"), [(name, way) for name in KINDS for way in WAYS[name]])
def test_a_step_is_a_hand_written_step(kit, logged, name, way):
    trainer = trainer_of(kit, name, way, MIXING)
    trainer.train()
    expected, loss = by_hand(name)
    for weight, by_step in zip(trainer.model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(weight, by_step, atol=1e-6, rtol=1e-5)
    assert logged(trainer, "loss") == [pytest.approx(loss, rel=1e-5)]
    assert (logged(trainer, "alpha"), logged(trainer, "beta")) == ([ALPHA], [BETA])
    if name != "experts":
        mixture = ALPHA * logged(trainer, "loss_ce")[0] + BETA * logged(trainer, "loss_el")[0]
        assert mixture == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_cross_entropy_is_the_stock_trainer(kit, difference, logged, name):
    stock = trainer_of(kit, name, "stock", max_steps=2)
    eval_loss = stock.evaluate()["eval_loss"]
    stock.train()
    pairs = zip(KINDS[name].model().parameters(), stock.model.parameters(), strict=True)
    assert max((before - after).abs().max() for before, after in pairs) > 1e-4
    for way in WAYS[name]:
        ours = trainer_of(kit, name, way, max_steps=2)
        if name != "experts":  # whose load-balancing loss the Trainer has in its eval_loss
            assert ours.evaluate()["eval_loss"] == pytest.approx(eval_loss, abs=1e-6)
        ours.train()
        assert difference(stock, ours) <= 1e-6
        np.testing.assert_allclose(logged(ours, "loss"), logged(stock, "loss"), atol=1e-6)
