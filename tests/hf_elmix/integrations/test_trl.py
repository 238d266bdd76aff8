"""The mixed loss in TRL's SFTTrainer, compared with the stock one and with a step written out row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    set_seed,
)

from hf_elmix import UsageError

trl = pytest.importorskip("trl", minversion="1.4")
from hf_elmix.integrations.trl import MixedSFTTrainer  # noqa: E402

RATE = 0.1
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
WORDS = {"vocab_size": 40, "pad_token_id": 0, "eos_token_id": 1}
ROWS = [
    {"prompt": "the film was", "completion": " superb ."},
    {"prompt": "the story was", "completion": " awful and the music dull ."},
    {"prompt": "a book", "completion": " to read ."},
    {"prompt": "this play was not", "completion": " lovely ."},
]


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, without special tokens around them."""
    words = sorted({word for row in ROWS for text in row.values() for word in text.split()})
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[EOS]", "[UNK]", *words])}
    model = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "[PAD]", "eos_token": "[EOS]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=model, **special)


@pytest.fixture(scope="module", name="tokenizer")
def tokenizer_fixture():
    return word_tokenizer()


def llama() -> LlamaForCausalLM:
    set_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, **WORDS))


def mixtral() -> MixtralForCausalLM:
    set_seed(0)
    experts = {"num_local_experts": 4, "num_key_value_heads": 2, "router_aux_loss_coef": 0.5}
    return MixtralForCausalLM(MixtralConfig(**SIZES, **WORDS, **experts, output_router_logits=True))


def trainer_of(kind: type, tokenizer: Any, folder: Any, model: Any = None, **given: Any) -> Any:
    names = ("mixing", "loss", "eval_dataset", "compute_loss_func", "compute_metrics")
    own = {name: given.pop(name) for name in names if name in given}
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "bf16": False}
    args = {"optim": "sgd", "learning_rate": RATE, "max_grad_norm": 0, "max_steps": 1, "logging_steps": 1, **quiet}
    args |= {"per_device_train_batch_size": len(ROWS), "gradient_checkpointing": False, **given}
    trainer = kind(
        model=model or llama(), args=trl.SFTConfig(str(folder), **args), train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer, **own,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def trained(*args: Any, **given: Any) -> Any:
    trainer = trainer_of(*args, **given)
    trainer.train()
    return trainer


def by_hand(tokenizer: Any, whole: bool, of_p: Any) -> tuple[torch.nn.Module, float]:
    """One step on the mean over all non-ignored tokens, with one forward pass for each row."""
    model, losses = llama(), []
    for row in ROWS:
        prompt = tokenizer(row["prompt"]).input_ids
        completion = [*tokenizer(row["completion"]).input_ids, tokenizer.eos_token_id]
        ids = torch.tensor(prompt + completion)
        p = model(input_ids=ids[None]).logits[0, :-1].softmax(-1)
        p_y = p[range(len(ids) - 1), ids[1:]]
        losses.append(of_p(p_y if whole else p_y[len(prompt) - 1 :]))
    loss = torch.cat(losses).mean()
    loss.backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight -= RATE * weight.grad
    return model, loss.item()


def mixed(p: torch.Tensor) -> torch.Tensor:
    """Focus 0.3."""
    return -p.log() + 2.5 * (1 - p)


def focal(p: torch.Tensor) -> torch.Tensor:
    return -((1 - p) ** 2) * p.log()


PACKED = {"packing": True, "max_length": 64}
DATA = {
    "completions": {},
    "everything": {"completion_only_loss": False},
    "packed": PACKED,
    "packed-everything": {**PACKED, "completion_only_loss": False},
    "padding-free": {"padding_free": True, "max_length": None},
    "accumulated": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": len(ROWS)},
}


@pytest.mark.slow
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(("loss", "of_p"), [("0.3", mixed), ("focal:gamma=2", focal)])
def test_a_step_is_a_hand_written_step(tokenizer, tmp_path, logged, data, loss, of_p):
    ours = trained(MixedSFTTrainer, tokenizer, tmp_path, loss=loss, **DATA[data])
    expected, value = by_hand(tokenizer, "everything" in data, of_p)
    for weight, by_step in zip(ours.model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(weight, by_step, atol=1e-6, rtol=1e-5)
    assert logged(ours, "loss") == [pytest.approx(value, rel=1e-5)]
    if loss == "0.3":
        assert (logged(ours, "alpha"), logged(ours, "beta")) == ([1], [2.5])
        assert logged(ours, "loss_ce")[0] + 2.5 * logged(ours, "loss_el")[0] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("data", DATA)
def test_cross_entropy_is_the_stock_trainer(tokenizer, tmp_path, difference, logged, data):
    given = {"max_steps": 3, "eval_dataset": Dataset.from_list(ROWS[:3]), **DATA[data]}
    stock = trained(trl.SFTTrainer, tokenizer, tmp_path / "stock", **given)
    ours = trained(MixedSFTTrainer, tokenizer, tmp_path / "ours", mixing="ce", **given)
    assert difference(stock, ours) == 0
    for name in ("loss", "entropy", "mean_token_accuracy", "num_tokens"):
        assert logged(ours, name) == logged(stock, name)
    np.testing.assert_allclose(logged(ours, "loss_ce"), logged(ours, "loss"), rtol=1e-5)
    assert ours.evaluate()["eval_loss"] == stock.evaluate()["eval_loss"]


def test_the_load_balancing_loss_is_kept(tokenizer, tmp_path, difference, logged):
    given = {"max_steps": 2, "router_aux_loss_coef": 0.5}
    stock = trained(trl.SFTTrainer, tokenizer, tmp_path / "stock", mixtral(), **given)
    ours = trained(MixedSFTTrainer, tokenizer, tmp_path / "ours", mixtral(), mixing="ce", **given)
    assert difference(stock, ours) == 0
    assert logged(ours, "aux_loss") == logged(stock, "aux_loss")
    assert logged(ours, "loss")[0] == pytest.approx(logged(ours, "loss_ce")[0] + 0.5 * logged(ours, "aux_loss")[0])


def test_no_further_forward_pass(tokenizer, tmp_path):
    calls = []
    model = llama()
    model.model.register_forward_hook(lambda *_: calls.append(1))
    trained(MixedSFTTrainer, tokenizer, tmp_path, model, max_steps=3)
    assert len(calls) == 3


def test_a_schedule_is_followed_and_evaluation_stays_cross_entropy(tokenizer, tmp_path, logged):
    given = {"max_steps": 4, "learning_rate": 0, "eval_strategy": "steps", "eval_steps": 1}
    ours = trained(
        MixedSFTTrainer, tokenizer, tmp_path, mixing="ce@0 el@0.5", eval_dataset=Dataset.from_list(ROWS), **given
    )
    assert logged(ours, "focus") == [0, 0, 0.5, 0.5]
    assert len(set(logged(ours, "eval_loss"))) == 1
    assert logged(ours, "eval_loss")[0] == pytest.approx(logged(ours, "loss_ce")[0], rel=1e-5)
    assert logged(ours, "loss")[-1] == pytest.approx(logged(ours, "loss_el")[-1], rel=1e-5)


def own(logits, labels):
    """A custom loss, which may use all logits."""
    return -logits.log_softmax(-1)[range(len(labels)), labels]


@pytest.mark.parametrize("loss", ["mpce", "cot", own], ids=lambda loss: getattr(loss, "__name__", loss))
def test_losses_that_need_the_logits_are_refused(tokenizer, tmp_path, loss):
    with pytest.raises(UsageError, match="needs all logits|two steps for each batch"):
        trainer_of(MixedSFTTrainer, tokenizer, tmp_path, loss=loss)


@pytest.mark.filterwarnings("ignore:`:FutureWarning")
@pytest.mark.parametrize(
    "given", [{"loss_type": "dft"}, {"label_smoothing_factor": 0.1}, {"compute_loss_func": print}], ids=str
)
def test_another_loss_beside_it_is_refused(tokenizer, tmp_path, given):
    with pytest.raises(UsageError, match=f"{next(iter(given))}.* sets another loss"):
        trainer_of(MixedSFTTrainer, tokenizer, tmp_path, **given)
