from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    set_seed,
)

from hf_elmix import MixedLossTrainer
from hf_elmix.errors import UsageError
from hf_elmix.integrations.large_vocab import LinearLossTrainer, linear_head
from hf_elmix.losses import linear

WORDS = 60
SMALL = {"vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
SMALL |= {"num_attention_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"vocab_size": WORDS, "n_positions": 16, "n_embd": 32, "n_layer": 1, "n_head": 2}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 2}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SMALL)),
    "gpt2, tied": (GPT2LMHeadModel, GPT2Config(**GPT2)),
    "phi, with a bias": (PhiForCausalLM, PhiConfig(**SMALL)),
    "mixtral, with a router": (
        MixtralForCausalLM,
        MixtralConfig(**SMALL, num_local_experts=2, num_key_value_heads=2, output_router_logits=True),
    ),
}


def model(name: str) -> nn.Module:
    set_seed(0)
    kind, config = MODELS[name]
    return kind(config)


def rows(count: int, seed: int = 0) -> Dataset:
    """Token sequences with ignored prompts, and rows in which all labels are ignored."""
    ids = torch.randint(3, WORDS, (count, 10), generator=torch.Generator().manual_seed(seed))
    labels = ids.clone()
    labels[:, :4] = -100
    labels[::7] = -100
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})


def arguments(name: str, **given):
    steps = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, "max_steps": 4, "mixing": "0,0.5"}
    return {"model": model(name), "train_dataset": rows(40), "eval_dataset": rows(12, seed=1), **steps, **given}


@pytest.mark.parametrize("name", MODELS)
def test_trains_and_evaluates_as_the_mixed_loss_trainer(kit, difference, logged, name):
    theirs, ours = (kit.train(kind, **arguments(name)) for kind in (MixedLossTrainer, LinearLossTrainer))
    assert difference(theirs, ours) < 2e-5  # Adam amplifies small differences: the gradients are closer (grad_norm)
    for term in ("loss", "loss_ce", "loss_el", "grad_norm"):
        assert logged(ours, term) == pytest.approx(logged(theirs, term), rel=2e-6)
    assert len(logged(ours, "loss")) == 4
    expected, got = theirs.evaluate(), ours.evaluate()
    for term in ("eval_loss", "eval_loss_el"):
        assert got[term] == pytest.approx(expected[term], rel=2e-6)


@pytest.mark.parametrize("loss", ["focal:gamma=2", "ce-rescaled:0-0.5"])
def test_trains_with_other_functions_of_cross_entropy(kit, logged, loss):
    given = [{**arguments("llama"), "mixing": None, "loss": loss} for _ in range(2)]
    theirs, ours = kit.train(MixedLossTrainer, **given[0]), kit.train(LinearLossTrainer, **given[1])
    for term in ("loss", "loss_ce", "loss_el", "grad_norm"):
        assert logged(ours, term) == pytest.approx(logged(theirs, term), rel=2e-6)


@pytest.mark.parametrize("loss", ["mpce", lambda logits, labels: logits.sum(-1)])
def test_refuses_losses_that_need_all_logits(kit, loss):
    with pytest.raises(UsageError, match="needs all logits"):
        kit.trainer(LinearLossTrainer, **{**arguments("llama"), "mixing": None, "loss": loss})


def test_logits_are_computed_only_for_predictions(kit, monkeypatch):
    """Count the products of the head itself, and the tokens for which the loss computes logits."""
    trainer = kit.trainer(LinearLossTrainer, **arguments("llama", max_steps=2))
    whole, tokens = [], []
    forward, in_chunks = nn.Linear.forward, linear._Pass.run
    monkeypatch.setattr(
        nn.Linear,
        "forward",
        lambda self, x: (whole.append(x) if len(self.weight) == WORDS else None, forward(self, x))[1],
    )
    monkeypatch.setattr(
        linear._Pass, "run", lambda self, *a: (tokens.append(len(self.tokens)), in_chunks(self, *a))[1]
    )
    trainer.train()
    trainer.evaluate()
    assert max(tokens[:4]) == 4 * 6  # of 40: not the prompts, and not the last positions
    assert tokens[4:] == [6 * 6, 4 * 6]
    assert whole == []
    prediction = trainer.predict(trainer.eval_dataset)
    assert prediction.predictions.shape == (12, 10, WORDS)
    assert len(whole) == 2


def test_compute_loss_of_a_single_batch(kit):
    """Without a count of labels, and with outputs, which are complete even after an evaluation that needed none."""
    theirs, ours = (kit.trainer(kind, **arguments("llama")) for kind in (MixedLossTrainer, LinearLossTrainer))
    ours.evaluate()
    batch = rows(8).with_format("torch")[:]
    for training in (True, False):
        losses = [trainer.compute_loss(trainer.model.train(training), dict(batch)) for trainer in (theirs, ours)]
        torch.testing.assert_close(*losses, rtol=1e-6, atol=0)
    loss, outputs = ours.compute_loss(ours.model, dict(batch), return_outputs=True)
    assert outputs["logits"].shape == (8, 10, WORDS)
    torch.testing.assert_close(loss, losses[0], rtol=1e-6, atol=0)


def test_takes_a_fused_kernel(kit, difference):
    called = []

    def kernel(hidden, weight, labels):
        called.append(len(labels))
        return nn.functional.linear_cross_entropy(hidden, weight, labels, reduction="none")

    class Trainer(LinearLossTrainer):
        def __init__(self, **given):
            super().__init__(kernel=kernel, **given)

    theirs, ours = (kit.train(kind, **arguments("llama")) for kind in (MixedLossTrainer, Trainer))
    assert difference(theirs, ours) < 2e-5
    assert len(called) == 8


def test_bfloat16(kit, logged):
    theirs, ours = (kit.train(k, **arguments("llama", bf16=True)) for k in (MixedLossTrainer, LinearLossTrainer))
    for term in ("loss", "loss_ce", "loss_el", "grad_norm"):
        assert logged(ours, term) == pytest.approx(logged(theirs, term), rel=5e-3)


REFUSED = {
    "capped": (Gemma2ForCausalLM, Gemma2Config(**SMALL, head_dim=16, num_key_value_heads=2)),
    "scaled": (CohereForCausalLM, CohereConfig(**SMALL)),
    "divided": (GraniteForCausalLM, GraniteConfig(**SMALL, logits_scaling=8.0)),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_refuses_logits_that_are_changed_after_the_head(name, dtype):
    kind, config = REFUSED[name]
    with pytest.raises(UsageError, match=f"{kind.__name__} changes the logits of its head"):
        linear_head(kind(config).to(dtype))


def test_leaves_the_model_as_it_was():
    llama = model("llama").train()
    state = torch.random.get_rng_state()
    assert linear_head(llama) is llama.lm_head
    assert llama.training
    assert "forward" not in vars(llama.lm_head)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_refuses_heads_it_cannot_read():
    llama = model("llama")
    llama.lm_head = nn.Sequential(llama.lm_head)
    with pytest.raises(UsageError, match="plain nn.Linear, but it is Sequential"):
        linear_head(llama)
    with pytest.raises(UsageError, match="but it is None"):
        linear_head(nn.Linear(2, 2))


def test_refuses_what_is_not_supported(kit):
    with pytest.raises(UsageError, match="does not support a model that does not predict the next token"):
        kit.trainer(LinearLossTrainer)
    with pytest.raises(UsageError, match="does not support label_smoothing_factor"):
        kit.trainer(LinearLossTrainer, **arguments("llama", label_smoothing_factor=0.1))
    with pytest.raises(UsageError, match="does not support class_weights"):
        kit.trainer(LinearLossTrainer, **arguments("llama", class_weights=[1.0, 2.0, 3.0]))


def test_an_adapter_beside_a_frozen_head(kit, logged):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
    given = [arguments("llama") for _ in range(2)]
    for one in given:
        set_seed(1)
        one["model"] = peft.get_peft_model(one["model"], config)
    theirs = kit.train(MixedLossTrainer, **given[0])
    ours = kit.train(LinearLossTrainer, **given[1])
    for term in ("loss", "loss_ce", "loss_el", "grad_norm"):
        assert logged(ours, term) == pytest.approx(logged(theirs, term), rel=1e-5)
