"""MixedLossTrainer compared with the stock Trainer: with ``mixing="ce"`` the training must be the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Trainer

from hf_elmix import MixedLossTrainer

SAME = 1e-6


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"label_smoothing_factor": 0.1},
        {"gradient_checkpointing": True},
        {"max_steps": 7},
        {"max_grad_norm": 0.1, "weight_decay": 0.1, "lr_scheduler_type": "cosine"},
        {"bf16": True},
    ],
    ids=lambda arguments: "-".join(arguments) or "plain",
)
def test_same_weights_as_the_trainer(kit, difference, logged, arguments):
    stock, ours = kit.train(Trainer, **arguments), kit.train(mixing="ce", **arguments)
    assert difference(stock, kit.trainer(Trainer)) > 1e-3  # it did learn something
    assert difference(stock, ours) <= SAME
    np.testing.assert_allclose(logged(ours, "loss"), logged(stock, "loss"), atol=SAME)


def test_under_autocast_weights_are_the_same_to_the_last_bit(kit, difference):
    stock, ours = kit.train(Trainer, bf16=True), kit.train(mixing="ce", bf16=True)
    assert difference(stock, ours) == 0
    assert ours.evaluate()["eval_loss"] == stock.evaluate()["eval_loss"]


@pytest.mark.parametrize("arguments", [{}, {"label_smoothing_factor": 0.1}])
def test_same_weights_for_token_classification(kit, difference, arguments):
    stock, ours = kit.train(Trainer, **kit.tokens(**arguments)), kit.train(mixing="ce", **kit.tokens(**arguments))
    assert difference(stock, kit.trainer(Trainer, **kit.tokens())) > 1e-3
    assert difference(stock, ours) <= SAME


def test_same_best_model(kit, difference):
    rows = kit.sequence_rows(20, seed=1)
    wrong = [(label + 1) % 3 for label in rows["labels"]]  # so that training makes the evaluation worse
    arguments = {
        "eval_dataset": rows.remove_columns("labels").add_column("labels", wrong),
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "learning_rate": 1e-2,
    }
    stock, ours = kit.train(Trainer, **arguments), kit.train(mixing="ce", **arguments)
    assert stock.state.best_global_step == ours.state.best_global_step
    assert stock.state.best_global_step < stock.state.max_steps
    assert difference(stock, ours) <= SAME


@pytest.mark.parametrize("mixing", ["ce", "0", "0-0.5"])
@pytest.mark.parametrize("kind", ["sequences", "tokens"])
def test_accumulation_equals_the_joined_batch(kit, difference, logged, kind, mixing):
    """k batches of b train like one of k * b: 34 rows in batches of 4, 3 at a time, end with a ragged 4 + 4 + 2."""
    rows = kit.sequence_rows(34) if kind == "sequences" else kit.token_rows(34)
    given = {"model": kit.sequence_model(dropout=0)} if kind == "sequences" else kit.tokens(dropout=0)
    split = {**given, "train_dataset": rows, "mixing": mixing, "per_device_train_batch_size": 4}
    several = kit.train(**split, gradient_accumulation_steps=3)
    given = {"model": kit.sequence_model(dropout=0)} if kind == "sequences" else kit.tokens(dropout=0)
    joined = kit.train(**{**given, "train_dataset": rows, "mixing": mixing, "per_device_train_batch_size": 12})
    assert several.state.global_step == joined.state.global_step == 6
    assert difference(several, joined) <= 2e-6
    for name in ("loss", "loss_ce", "loss_el", "grad_norm"):
        np.testing.assert_allclose(logged(several, name), logged(joined, name), rtol=1e-4)


def test_accumulation_equals_the_stock_trainer_on_the_joined_batch(kit, difference):
    rows = {"train_dataset": kit.sequence_rows(34)}
    stock = kit.train(Trainer, model=kit.sequence_model(dropout=0), per_device_train_batch_size=12, **rows)
    split = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}
    ours = kit.train(model=kit.sequence_model(dropout=0), mixing="ce", **split, **rows)
    assert difference(stock, ours) <= 2e-6


def test_the_stock_trainer_multiplies_the_loss_by_the_accumulated_batches(kit, logged):
    """What the documentation says of transformers 5.23. If this fails, the Trainer has been fixed: update the text."""
    arguments = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 2, "max_steps": 1}
    stock = kit.train(Trainer, model=kit.sequence_model(dropout=0), **arguments)
    ours = kit.train(model=kit.sequence_model(dropout=0), mixing="ce", **arguments)
    assert logged(ours, "loss")[0] == pytest.approx(np.log(3), abs=0.05)
    assert logged(stock, "loss")[0] == pytest.approx(4 * logged(ours, "loss")[0], rel=1e-5)


@pytest.mark.parametrize("stop", [3, 5, 8], ids=["mid-epoch", "end of an epoch", "across a phase"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_resuming_is_bit_identical_to_not_stopping(kit, difference, stop, accumulation):
    """Dropout on, 10 steps in two epochs, phases that change at steps 2, 4, 5, 7 and 9."""
    arguments = {"save_strategy": "steps", "save_steps": 1, "gradient_accumulation_steps": accumulation}
    arguments |= {"train_dataset": kit.sequence_rows(40 * accumulation), "mixing": "0-0.5"}
    unbroken = kit.train(**arguments, model=kit.sequence_model())
    checkpoint = f"{unbroken.args.output_dir}/checkpoint-{stop}"
    resumed = kit.train(**arguments, model=kit.sequence_model(), resume_from_checkpoint=checkpoint)
    assert difference(unbroken, resumed) == 0
    ours, theirs = ([log for log in t.state.log_history if "alpha" in log] for t in (resumed, unbroken))
    names = ("step", "alpha", "beta", "focus", "loss", "loss_ce", "loss_el")
    assert [[log[name] for name in names] for log in ours] == [[log[name] for name in names] for log in theirs]


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_evaluate_and_predict_as_the_trainer(kit, tokens, smoothing):
    given = lambda: {**(kit.tokens() if tokens else {}), "label_smoothing_factor": smoothing}  # noqa: E731
    metrics = {} if tokens else {"compute_metrics": accuracy}
    stock = kit.trainer(Trainer, per_device_eval_batch_size=8, **metrics, **given())
    ours = kit.trainer(mixing="el", per_device_eval_batch_size=8, **metrics, **given())
    expected, got = stock.evaluate(), ours.evaluate()
    assert got.keys() - expected.keys() == {"eval_loss_el"}
    assert expected.keys() <= got.keys()
    assert got["eval_loss"] == pytest.approx(expected["eval_loss"], abs=SAME)
    assert got.get("eval_accuracy") == expected.get("eval_accuracy")
    expected, got = stock.predict(stock.eval_dataset), ours.predict(ours.eval_dataset)
    np.testing.assert_array_equal(got.predictions, expected.predictions)
    np.testing.assert_array_equal(got.label_ids, expected.label_ids)
    assert got.metrics["test_loss"] == pytest.approx(expected.metrics["test_loss"], abs=SAME)
    assert "test_loss_el" in got.metrics


def test_prediction_loss_only_and_unlabelled_rows_as_the_trainer(kit):
    stock = kit.trainer(Trainer, prediction_loss_only=True)
    ours = kit.trainer(mixing="0-0.5", prediction_loss_only=True)
    assert ours.predict(ours.eval_dataset).predictions is None
    assert ours.evaluate()["eval_loss"] == pytest.approx(stock.evaluate()["eval_loss"], abs=SAME)
    unlabelled = kit.sequence_rows(20).remove_columns("labels")
    stock, ours = kit.trainer(Trainer), kit.trainer()
    expected, got = stock.predict(unlabelled), ours.predict(unlabelled)
    np.testing.assert_array_equal(got.predictions, expected.predictions)
    assert got.metrics.keys() == expected.metrics.keys()
    assert got.label_ids is None


def test_eval_loss_el_is_the_mean_over_rows(kit):
    """20 rows in batches of 8: the last batch is smaller and must not weigh more."""
    trainer = kit.trainer(per_device_eval_batch_size=8)
    p = torch.tensor(trainer.predict(trainer.eval_dataset).predictions).double().softmax(-1)
    p_y = p[range(20), trainer.eval_dataset["labels"]]
    metrics = trainer.evaluate()
    assert metrics["eval_loss_el"] == pytest.approx((1 - p_y).mean().item(), abs=1e-6)
    assert metrics["eval_loss"] == pytest.approx(-p_y.log().mean().item(), abs=1e-6)


def test_evaluation_on_several_datasets(kit):
    trainer = kit.trainer(eval_dataset={"a": kit.sequence_rows(9, seed=2), "b": kit.sequence_rows(9, seed=3)})
    metrics = trainer.evaluate()
    assert {"eval_a_loss", "eval_a_loss_el", "eval_b_loss", "eval_b_loss_el"} <= metrics.keys()
    assert metrics["eval_a_loss_el"] != metrics["eval_b_loss_el"]


def test_a_lora_model_trains(kit):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(kit.sequence_model(), peft.LoraConfig(task_type="SEQ_CLS", r=2))
    trainer = kit.trainer(model=model, mixing="0-0.5", learning_rate=1e-2)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer.train()
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trainer.evaluate()["eval_loss"] < np.log(3) + 0.2


@pytest.mark.slow
def test_a_compiled_model_trains_to_the_same_weights(kit, difference):
    given = {"mixing": "0-0.5", "max_steps": 3}
    plain = kit.train(model=kit.sequence_model(dropout=0), **given)
    compiled = kit.train(model=kit.sequence_model(dropout=0), torch_compile=True, **given)
    assert difference(plain, compiled) <= 1e-4
    assert compiled.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], abs=1e-4)


def test_changing_the_class_name_is_enough(kit, tmp_path, monkeypatch):
    """By default, the gradual schedule is used."""
    monkeypatch.chdir(tmp_path)
    trainer = MixedLossTrainer(model=kit.sequence_model(), train_dataset=kit.sequence_rows(8))
    assert str(trainer.mixing_callback.schedule) == "mix:0-0.5"
    assert trainer.args.output_dir == "tmp_trainer" or trainer.args.output_dir.endswith("trainer_output")


@pytest.mark.parametrize("ignored", [range(8, 16), range(20)], ids=["one batch", "all"])
def test_batches_without_a_label_are_left_out_of_eval_loss_as_by_the_trainer(kit, ignored):
    rows = kit.token_rows(20, seed=1)
    labels = [[-100] * len(row) if k in ignored else row for k, row in enumerate(rows["labels"])]
    rows = rows.remove_columns("labels").add_column("labels", labels)
    given = {**kit.tokens(), "eval_dataset": rows, "per_device_eval_batch_size": 4}
    expected, got = (
        kit.trainer(Trainer, **given).evaluate(),
        kit.trainer(**{**given, "model": kit.token_model()}).evaluate(),
    )
    assert got["eval_loss"] == pytest.approx(expected["eval_loss"], abs=SAME, nan_ok=True)
    if len(ignored) < 20:
        assert got["eval_loss_el"] == pytest.approx(2 / 3, abs=0.05)  # an untrained model of three classes
