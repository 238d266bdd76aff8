"""The mixed loss for a CrossEncoder, compared with the stock loss and a step written out by hand."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from transformers import set_seed

from glue_runs.pocket.encoder import encoder_path
from hf_elmix import UsageError, mixed_loss_func

pytest.importorskip("sentence_transformers", minversion="5.4")
from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import CrossEntropyLoss

from hf_elmix.integrations.sentence_transformers import MixedCrossEncoderLoss

RATE = 0.1
TEXTS = [("the film was superb .", "the film was awful ."), ("a book", "the story"), ("it was dull", "a play")]
PAIRS = Dataset.from_list([{"a": a, "b": b, "label": k % 3} for k, (a, b) in enumerate(TEXTS * 2 + TEXTS[:2])])


def encoder(classes: int = 3) -> CrossEncoder:
    set_seed(0)
    model = CrossEncoder(encoder_path(), num_labels=classes, device="cpu")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def trained(folder, loss=None, model=None, **given):
    """A trainer after some steps, with the stock loss or ours."""
    model = model or encoder()
    function = mixed_loss_func(loss or "ce")
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_steps": 1}
    plain = {"optim": "sgd", "learning_rate": RATE, "max_grad_norm": 0, "max_steps": 1}
    args = CrossEncoderTrainingArguments(str(folder), **{**quiet, **plain, **given})
    module = MixedCrossEncoderLoss(model, function) if loss else CrossEntropyLoss(model)
    callbacks = [function] if loss else []
    data = {"train_dataset": PAIRS, "eval_dataset": PAIRS}
    trainer = CrossEncoderTrainer(model=model, args=args, loss=module, callbacks=callbacks, **data)
    trainer.train()
    return trainer


@pytest.mark.parametrize("batches", [1, 2, 4])
def test_a_step_is_a_hand_written_step(tmp_path, logged, batches):
    split = {"per_device_train_batch_size": 8 // batches, "gradient_accumulation_steps": batches}
    ours, model = trained(tmp_path, "0.3", **split), encoder()
    scores = model(model.preprocess(list(zip(PAIRS["a"], PAIRS["b"], strict=True))))["scores"]
    p_y = scores.softmax(-1)[range(8), PAIRS["label"]]
    loss = (-p_y.log() + 2.5 * (1 - p_y)).mean()
    loss.backward()
    for weight, expected in zip(ours.model.parameters(), model.parameters(), strict=True):
        gradient = 0 if expected.grad is None else expected.grad
        torch.testing.assert_close(weight, expected - RATE * gradient, atol=1e-6, rtol=1e-5)
    assert logged(ours, "loss") == [pytest.approx(loss.item(), rel=1e-5)]
    assert logged(ours, "loss_ce") == [pytest.approx(-p_y.log().mean().item(), rel=1e-5)]
    assert logged(ours, "loss_el") == [pytest.approx((1 - p_y).mean().item(), rel=1e-5)]


def test_cross_entropy_is_the_stock_loss(tmp_path, difference, logged):
    given = {"max_steps": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    stock, ours = trained(tmp_path / "stock", **given), trained(tmp_path / "ours", "ce", **given)
    assert difference(stock, ours) <= 1e-6
    assert logged(ours, "loss") == pytest.approx(logged(stock, "loss"), abs=1e-6)
    assert ours.evaluate()["eval_loss"] == pytest.approx(stock.evaluate()["eval_loss"], abs=1e-6)


def test_a_single_score_is_refused():
    with pytest.raises(UsageError, match="num_labels of 2 or more"):
        MixedCrossEncoderLoss(encoder(classes=1), mixed_loss_func())


def test_label_smoothing_which_its_trainer_ignores_is_refused(tmp_path):
    with pytest.raises(UsageError, match="ignores label_smoothing_factor"):
        trained(tmp_path, "0-0.5", label_smoothing_factor=0.1)
    trained(tmp_path, label_smoothing_factor=0.1)
