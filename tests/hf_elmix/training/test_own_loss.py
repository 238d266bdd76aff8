"""What a model does with labels is found by trying it, and one whose loss is another is refused."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForMultipleChoice,
    BartConfig,
    BartForCausalLM,
    BertConfig,
    BertForPreTraining,
    ElectraConfig,
    ElectraForPreTraining,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GitConfig,
    GitForCausalLM,
    GPT2Config,
    GPT2DoubleHeadsModel,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    ProphetNetConfig,
    ProphetNetForConditionalGeneration,
    Trainer,
    set_seed,
)

from hf_elmix import UsageError, mixed_loss_func
from hf_elmix.training.own_loss import LabelUse, try_labels

WORDS, LENGTH = 50, 8
SIZES = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32, "pad_token_id": 0}
PARTS = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in (("layers", 1), ("ffn_dim", 32))}
BART = {"vocab_size": WORDS, "d_model": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2, **PARTS}
ENDS = {"decoder_start_token_id": 1, "pad_token_id": 0}
PROPHET = {"vocab_size": WORDS, "hidden_size": 16, "num_encoder_layers": 1, "num_decoder_layers": 1, **ENDS}
PROPHET |= {f"{p}_{n}": v for p in ("encoder", "decoder") for n, v in (("ffn_dim", 32), ("attention_heads", 2))}


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**SIZES))


class Unannotated(LlamaForCausalLM):
    def forward(self, input_ids, labels=None, **more):
        return super().forward(input_ids=input_ids, labels=labels, **more)


class Inside(nn.Module):
    """A language model inside a module of a user's."""

    def __init__(self) -> None:
        super().__init__()
        self.lm = llama()

    def forward(self, input_ids, labels=None):
        return self.lm(input_ids=input_ids, labels=labels)


def encoder_decoder() -> EncoderDecoderModel:
    decoder = BertConfig(**SIZES, is_decoder=True, add_cross_attention=True)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(**SIZES), decoder)
    config.decoder_start_token_id, config.pad_token_id = 1, 0
    return EncoderDecoderModel(config)


def experts() -> MixtralForCausalLM:
    more = {"num_key_value_heads": 2, "num_local_experts": 4, "router_aux_loss_coef": 0.5}
    return MixtralForCausalLM(MixtralConfig(**SIZES, **more, output_router_logits=True))


ENCODER = {"encoder_hidden_size": 16}
PROMPT = {"cpt_token_ids": [5, 6, 7, 8], "cpt_mask": [1] * 4, "cpt_tokens_type_mask": [1, 2, 3, 4]}


def prompt_tuned(name: str, **more: object):
    def build():
        peft = pytest.importorskip("peft")
        given = {"num_virtual_tokens": 3, **more} if name != "CPTConfig" else PROMPT
        return peft.get_peft_model(llama(), getattr(peft, name)(task_type="CAUSAL_LM", **given))

    return build


def git() -> GitForCausalLM:
    """A model whose logits begin with those of an image, the last of which predicts no label."""
    eyes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return GitForCausalLM(GitConfig(**SIZES, **still, vision_config={**eyes, "intermediate_size": 32}))


def albert() -> AlbertForMultipleChoice:
    return AlbertForMultipleChoice(AlbertConfig(**SIZES, embedding_size=8))


class Own(nn.Module):
    """A classifier with dropout, normalisation and a loss of its own."""

    def __init__(self, loss=F.cross_entropy, name: str = "logits") -> None:
        super().__init__()
        self.embedding, self.norm, self.head = nn.Embedding(WORDS, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.loss, self.name = loss, name

    def forward(self, input_ids, labels=None):
        hidden = self.norm(F.dropout(self.embedding(input_ids).mean(1), 0.5, self.training))
        logits = self.head(hidden)
        return {"loss": None if labels is None else self.loss(logits, labels), self.name: logits}


class MyLabel(Own):
    def forward(self, input_ids, my_label=None):
        return super().forward(input_ids, my_label)


class WithDefault(Own):
    def forward(self, input_ids, labels=-1):
        return super().forward(input_ids, labels)


def token_rows(count: int = 16) -> list[dict[str, list[int]]]:
    """Rows whose labels are other tokens, some ignored, the first of them, which nothing predicts, always."""
    ids = torch.randint(5, WORDS, (2, count, LENGTH), generator=torch.Generator().manual_seed(0))
    ignored = torch.rand(count, LENGTH, generator=torch.Generator().manual_seed(1)) < 0.3
    ignored[:, 0] = True
    labels = ids[1].masked_fill(ignored, -100)
    return [{"input_ids": one, "labels": other} for one, other in zip(ids[0].tolist(), labels.tolist(), strict=True)]


def whole_rows() -> list[dict[str, list[int]]]:
    """Rows all of whose labels count, the first too."""
    return [{**row, "labels": [max(label, 3) for label in row["labels"]]} for row in token_rows()]


def image_rows() -> list[dict[str, object]]:
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return [{**row, "pixel_values": image} for row, image in zip(whole_rows(), images, strict=True)]


def class_rows(count: int = 16, name: str = "labels") -> list[dict[str, object]]:
    return [{"input_ids": row["input_ids"], name: k % 3} for k, row in enumerate(token_rows(count))]


def choice_rows() -> list[dict[str, object]]:
    return [{"input_ids": [row["input_ids"], row["input_ids"][::-1]], "labels": k % 2} for k, row in
            enumerate(token_rows())]  # fmt: skip


MODELS = {
    "inside a module": (Inside, token_rows),
    "unannotated": (lambda: Unannotated(LlamaConfig(**SIZES)), token_rows),
    "not shifted": (lambda: BartForCausalLM(BartConfig(**BART)), token_rows),
    "two heads": (
        lambda: GPT2DoubleHeadsModel(GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=1, n_head=2)),
        token_rows,
    ),
    "a mask from labels": (encoder_decoder, token_rows),
    "experts": (experts, token_rows),
    "an image first": (git, image_rows),
    "virtual tokens": (prompt_tuned("PromptTuningConfig"), token_rows),
    "virtual tokens, first label": (prompt_tuned("PromptTuningConfig"), whole_rows),
    "virtual tokens, encoded": (prompt_tuned("PromptEncoderConfig", **ENCODER), token_rows),
    "a prefix": (prompt_tuned("PrefixTuningConfig"), token_rows),
    "a prefix, encoded": (
        prompt_tuned("PrefixTuningConfig", encoder_hidden_size=16, prefix_projection=True),
        whole_rows,
    ),
    "a wrong annotation": (albert, choice_rows),
    "its own module": (Own, class_rows),
    "other logits": (lambda: Own(name="scores"), class_rows),
    "a default for labels": (WithDefault, class_rows),
    "another label": (MyLabel, lambda: class_rows(name="my_label")),
}
STEPS = {"max_steps": 3, "optim": "sgd", "learning_rate": 0.1, "remove_unused_columns": False}


@pytest.mark.parametrize("name", MODELS)
def test_cross_entropy_trains_and_evaluates_as_the_stock_trainer(kit, difference, logged, name):
    build, rows = MODELS[name]
    given = {"train_dataset": rows(), "eval_dataset": rows(), "per_device_train_batch_size": 8, **STEPS}
    if name == "another label":
        given["label_names"] = ["my_label"]
    if name == "two heads":
        given["label_names"] = ["labels"]
    trained = []
    for kind, more in ((Trainer, {}), (type(kit.trainer()), {"mixing": "ce"})):
        set_seed(0)
        trained.append(kit.train(kind, model=build(), **given, **more))
    stock, ours = trained
    set_seed(0)
    assert difference(stock, kit.trainer(Trainer, model=build(), **given)) > 1e-5
    assert difference(stock, ours) <= 1e-6
    np.testing.assert_allclose(logged(ours, "loss"), logged(stock, "loss"), rtol=1e-5)
    assert ours.evaluate()["eval_loss"] == pytest.approx(stock.evaluate()["eval_loss"], rel=1e-5)


def test_labels_of_another_name_are_counted_over_the_whole_step(kit, difference):
    given = {"label_names": ["my_label"], "mixing": "0-0.5", "train_dataset": class_rows(24, "my_label"), **STEPS}
    given |= {"train_sampling_strategy": "sequential", "max_steps": 1}
    trained = []
    for split in ({"per_device_train_batch_size": 24}, {"per_device_train_batch_size": 8}):
        set_seed(0)
        model = MyLabel()
        model.norm = nn.Identity()
        model.train = lambda mode=True, model=model: nn.Module.train(model, False)  # no dropout
        accumulated = {"gradient_accumulation_steps": 24 // split["per_device_train_batch_size"]}
        trained.append(kit.train(model=model, eval_dataset=None, **given, **split, **accumulated))
    assert difference(*trained) <= 1e-6


@pytest.mark.parametrize(("rows", "share"), [(token_rows, 1), (whole_rows, 1 - 1 / LENGTH)])
def test_a_first_label_is_counted_by_the_stock_trainer_only(kit, logged, rows, share):
    given = {"train_dataset": rows(), "eval_dataset": None, "label_smoothing_factor": 0.1, **STEPS, "max_steps": 1}
    losses = []
    for kind, more in ((Trainer, {}), (type(kit.trainer()), {"mixing": "ce"})):
        set_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=1, n_head=2))
        losses += logged(kit.train(kind, model=model, **given, **more), "loss")
    assert losses[0] / losses[1] == pytest.approx(share, abs=1e-5)


def weighted(logits, labels):
    return F.cross_entropy(logits, labels, weight=torch.tensor([0.8, 0.1, 0.1]))


def smoothed(logits, labels):
    return F.cross_entropy(logits, labels, label_smoothing=0.1)


def summed(logits, labels):
    return F.cross_entropy(logits, labels, reduction="sum")


def with_more(logits, labels):
    return F.cross_entropy(logits, labels) + logits.pow(2).mean() + 1


def even(logits, labels):
    """The cross entropy in value, but not in its gradient, as long as all logits are equal."""
    return F.cross_entropy(logits, (labels + 1) % 3)


LOSSES = (weighted, smoothed, summed, with_more, even)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("way", ["mixin", "function"])
def test_another_loss_is_refused_with_both_numbers(kit, way, loss):
    set_seed(0)
    model = Own(loss)
    nn.init.zeros_(model.head.weight)  # an untrained head predicts ln 3 whatever the weights
    nn.init.zeros_(model.head.bias)
    given = {"train_dataset": class_rows(), "eval_dataset": class_rows(), "remove_unused_columns": False}
    for replace in (False, True):
        if way == "mixin":
            trainer = kit.trainer(model=copy.deepcopy(model), mixing="0", replace_loss=replace, **given)
        else:
            f = mixed_loss_func("0", replace_loss=replace)
            trainer = kit.trainer(Trainer, model=copy.deepcopy(model), compute_loss_func=f, callbacks=[f], **given)
        if replace:
            assert trainer.train().global_step == 4
        else:
            expected = r"is 1.09861 on the first batch, but got \d+\.\d+.*replace_loss=True"
            with pytest.raises(UsageError, match=expected):
                trainer.train()


def test_a_prompt_that_is_trained_to_predict_itself_is_refused_or_replaced(kit):
    """CPT: its loss counts the labels of its own prompt, too."""
    given = {"train_dataset": token_rows(), "eval_dataset": token_rows(), "mixing": "ce", **STEPS}
    with pytest.raises(UsageError, match=r"loss of LlamaForCausalLM .*, but got \d"):
        kit.train(model=prompt_tuned("CPTConfig")(), **given)
    model = prompt_tuned("CPTConfig")()
    before = {name: part.detach().clone() for name, part in model.named_parameters()}
    kit.train(model=model, replace_loss=True, **given)
    moved = {name for name, part in model.named_parameters() if not torch.equal(part, before[name])}
    assert moved == {name for name, part in model.named_parameters() if part.requires_grad}


@pytest.mark.parametrize(
    ("build", "rows", "message"),
    [
        (
            lambda: ElectraForPreTraining(ElectraConfig(**SIZES, embedding_size=8)),
            token_rows,
            "one label for each row",
        ),
        (lambda: BertForPreTraining(BertConfig(**SIZES)), token_rows, "returned only prediction_logits"),
        (lambda: ProphetNetForConditionalGeneration(ProphetNetConfig(**PROPHET)), token_rows, "loss of ProphetNet"),
    ],
)
def test_models_without_a_cross_entropy_are_refused(kit, build, rows, message):
    data = [{**row, "labels": [max(label, 0) % 2 for label in row["labels"]]} for row in rows()]
    with pytest.raises(UsageError, match=message):
        kit.train(model=build(), train_dataset=data, eval_dataset=None, remove_unused_columns=False)


def test_a_module_without_a_loss_is_taken_as_it_is():
    assert try_labels(nn.Linear(2, 3), {}, torch.tensor([1])) == LabelUse()


def test_a_batch_without_labels_tells_nothing():
    ids = torch.ones(2, 4, dtype=torch.long)
    assert try_labels(llama(), {"input_ids": ids}, ids.new_full((2, 4), -100)) is None
    assert try_labels(llama(), {"input_ids": ids}, ids) == LabelUse(shifted=True, prefixed=True)


def test_nothing_is_disturbed():
    set_seed(0)
    model = Own().train()
    ids, labels = torch.randint(5, WORDS, (6, LENGTH)), torch.arange(6) % 3
    buffers = dict(model.named_buffers())
    before = copy.deepcopy(model.state_dict())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert try_labels(model, {"input_ids": ids}, labels) == LabelUse()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # noqa: NPY002
    assert all(buffers[name] is buffer for name, buffer in model.named_buffers())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(part.grad is None for part in model.parameters())


def test_a_loss_that_is_there_in_training_only_is_refused(kit):
    class Training(Own):
        def forward(self, input_ids, labels=None):
            outputs = super().forward(input_ids, labels)
            if labels is not None and self.training:
                outputs["loss"] = outputs["loss"] + self.head.weight.norm()
            return outputs

    trainer = kit.trainer(model=Training(), train_dataset=class_rows(), eval_dataset=class_rows())
    trainer.evaluate()
    with pytest.raises(UsageError, match="loss of Training"):
        trainer.train()
