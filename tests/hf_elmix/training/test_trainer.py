"""What MixedLossTrainer does beyond the stock Trainer."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import default_compute_objective

from hf_elmix import MixedLossArguments, MixedLossMixin, MixedLossTrainer, MixingSchedule, UsageError
from hf_elmix.training.mahalanobis_head import MahalanobisHead, use_mahalanobis_head

PHASES = [(1, 1), (1, 1.25), (1, 5 / 3), (1, 2.5), (1, 5), (0, 1)]


def test_logs_carry_the_weights_and_both_terms(kit, logged):
    trainer = kit.train(mixing="0-0.5", max_steps=12)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [(log["alpha"], log["beta"]) for log in logs] == [PHASES[step * 6 // 12] for step in range(12)]
    np.testing.assert_allclose([log["focus"] for log in logs], np.repeat([0, 0.1, 0.2, 0.3, 0.4, 0.5], 2))
    for log in logs:
        mixture = log["alpha"] * log["loss_ce"] + log["beta"] * log["loss_el"]
        assert log["loss"] == pytest.approx(mixture, rel=1e-5)
    summary = trainer.state.log_history[-1]
    assert "train_loss" in summary
    assert "alpha" not in summary


def test_terms_are_means_since_the_last_log(kit, logged):
    every, seldom = (kit.train(mixing="0", max_steps=8, logging_steps=steps) for steps in (1, 4))
    for name in ("loss", "loss_ce", "loss_el"):
        np.testing.assert_allclose(
            logged(seldom, name), np.reshape(logged(every, name), (2, 4)).mean(1), rtol=1e-5, err_msg=name
        )


def test_trackers_show_them(kit, tmp_path, monkeypatch):
    """TensorBoard, as an example, stores what was logged."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = kit.train(mixing="0-0.5", max_steps=6, report_to="tensorboard", eval_strategy="epoch")
    events = event_accumulator.EventAccumulator(str(tmp_path / "events")).Reload()
    for name in ("loss", "loss_ce", "loss_el", "alpha", "beta", "focus"):
        logged = [(log["step"], log[name]) for log in trainer.state.log_history if name in log]
        stored = [(event.step, event.value) for event in events.Scalars(f"train/{name}")]
        assert len(logged) == 6
        np.testing.assert_allclose(stored, logged, rtol=1e-6)
    assert events.Scalars("eval/loss_el")


def test_labels_are_withheld_after_the_first_batch(kit):
    seen = []

    class Model(type(kit.sequence_model())):
        def forward(self, *args, labels=None, **kwargs):
            seen.append(labels is not None)
            return super().forward(*args, labels=labels, **kwargs)

    set_seed(0)
    trainer = kit.train(model=Model(kit.config()), max_steps=3, remove_unused_columns=False)
    assert seen == [True, False, False, False, False]  # tried with and without, then three steps
    seen.clear()
    trainer.evaluate()
    trainer.evaluate()
    assert seen == [True] + [False] * 7  # three batches, twice


def test_eval_loss_is_cross_entropy_in_every_phase(kit):
    losses = {mixing: kit.trainer(mixing=mixing).evaluate() for mixing in ("ce", "el", "0-0.5", "7:3")}
    for name in ("eval_loss", "eval_loss_el"):
        assert len({metrics[name] for metrics in losses.values()}) == 1
    training = kit.train(mixing="0-0.5", eval_strategy="steps", eval_steps=1, max_steps=6, learning_rate=0)
    metrics = [log["eval_loss"] for log in training.state.log_history if "eval_loss" in log]
    assert metrics == [losses["ce"]["eval_loss"]] * 6


def test_best_model_and_early_stopping_can_use_the_expectation_loss(kit):
    trainer = kit.train(
        load_best_model_at_end=True, metric_for_best_model="loss_el", greater_is_better=False,
        eval_strategy="epoch", save_strategy="epoch",
    )  # fmt: skip
    assert trainer.state.best_metric == min(
        log["eval_loss_el"] for log in trainer.state.log_history if "eval_loss_el" in log
    )


def test_takes_every_argument_of_trainer_by_position_too(kit):
    ours, stock = inspect.signature(MixedLossTrainer.__init__), inspect.signature(Trainer.__init__)
    names = {name: part.default for name, part in stock.parameters.items()}
    assert {name: part.default for name, part in list(ours.parameters.items())[: len(names)]} == names
    assert list(ours.parameters)[len(names) :] == ["mixing", "loss", "class_weights", "replace_loss"]
    assert ours.parameters["mixing"].kind is inspect.Parameter.KEYWORD_ONLY
    args = TrainingArguments(str(kit.folder), report_to="none", use_cpu=True)
    trainer = MixedLossTrainer(kit.sequence_model(), args, None, kit.sequence_rows(8), mixing="ce")
    assert trainer.train_dataset is not None


def test_mixing_comes_from_the_keyword_then_the_arguments_then_the_default(kit):
    args = {"output_dir": str(kit.folder), "report_to": "none", "use_cpu": True}

    def schedule(args, **given):
        return str(MixedLossTrainer(model=kit.sequence_model(), args=args, **given).mixing_callback.schedule.mixing)

    assert schedule(TrainingArguments(**args)) == "0-0.5"
    assert schedule(MixedLossArguments(**args, mixing="el")) == "el"
    assert schedule(MixedLossArguments(**args, mixing="el"), mixing=MixingSchedule.parse("ce")) == "ce"


def test_a_second_training_starts_its_logs_afresh(kit, logged):
    trainer = kit.trainer(mixing="0", max_steps=3, logging_steps=2)
    trainer.train()  # leaves the terms of step 3 unlogged
    trainer.train()
    log = next(log for log in trainer.state.log_history if "loss" in log)
    assert log["loss"] == pytest.approx(log["loss_ce"] + log["loss_el"], rel=1e-5)


def test_model_init_and_saving(kit, tmp_path):
    args = TrainingArguments(str(tmp_path / "out"), report_to="none", use_cpu=True, max_steps=1, disable_tqdm=True)
    trainer = MixedLossTrainer(args=args, model_init=lambda: kit.sequence_model(), train_dataset=kit.sequence_rows(8))
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = type(trainer.model).from_pretrained(tmp_path / "saved")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), trainer.model.parameters(), strict=True))


class Plain(nn.Module):
    """A custom model, whose outputs have any form and whose forward takes no labels."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head, self.form = nn.Embedding(60, 8), nn.Linear(8, 3), form

    def forward(self, input_ids):
        logits = self.head(self.embedding(input_ids).mean(1))
        extra = input_ids[:, :2]
        return {
            "dict": {"logits": logits},
            "tuple": (logits, extra),
            "list": [logits, extra],
            "none first": (None, logits, extra),
            "tensor": logits,
        }[self.form]


class Demanding(nn.Module):
    """A model whose forward requires labels."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.inner, self.form = Plain("tensor"), form

    def forward(self, input_ids, labels):
        logits = self.inner(input_ids)
        loss = F.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits} if self.form == "dict" else (loss, logits)


@pytest.mark.parametrize("kind", [Plain, Demanding])
@pytest.mark.parametrize("form", ["dict", "tuple", "list", "tensor", "none first"])
def test_plain_modules_train_evaluate_and_predict(kit, kind, form):
    trainer = kit.trainer(model=kind(form), mixing="0-0.5", learning_rate=0.05, num_train_epochs=10)
    before = trainer.evaluate()["eval_loss"]
    prediction = trainer.predict(trainer.eval_dataset)
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    expected = Plain("tensor")(torch.tensor(trainer.eval_dataset["input_ids"]))
    np.testing.assert_allclose(logits, expected.detach().numpy(), atol=1e-6)
    assert before == pytest.approx(F.cross_entropy(expected, torch.tensor(trainer.eval_dataset["labels"])).item())
    trainer.train()
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] < before - 0.1


def token_batch(kit, count=16):
    """Rows for language models: the labels are the tokens, some ignored."""
    rows = kit.token_rows(count)
    ids, ignored = np.array(rows["input_ids"]), np.array(rows["labels"]) == -100
    ignored[:, 0] = True  # nothing predicts the first token, but for some models the stock Trainer counts it
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": np.where(ignored, -100, ids).tolist()})


SMALL = {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def t5():
    set_seed(0)
    small = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0}
    return T5ForConditionalGeneration(T5Config(**small, decoder_start_token_id=0, **SMALL))


def bart():
    set_seed(0)
    layers = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in (("layers", 1), ("ffn_dim", 32))}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "dropout": 0.0}
    config = BartConfig(d_model=16, max_position_embeddings=16, decoder_start_token_id=2, **layers, **heads, **SMALL)
    return BartForConditionalGeneration(config)


def mixtral():
    set_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    experts = {"num_key_value_heads": 2, "num_local_experts": 4, "router_aux_loss_coef": 0.5}
    return MixtralForCausalLM(MixtralConfig(**small, **experts, output_router_logits=True, **SMALL))


@pytest.mark.parametrize("model", [t5, bart])
def test_encoder_decoders_without_decoder_inputs_train_as_with_the_trainer(kit, difference, model):
    """The decoder inputs are made from the labels, as in the stock model."""
    given = {"train_dataset": token_batch(kit), "eval_dataset": token_batch(kit)}
    arguments = {"max_steps": 2, "optim": "sgd", "learning_rate": 0.1, "remove_unused_columns": False}
    stock = kit.train(Trainer, model=model(), **given, **arguments)
    ours = kit.train(model=model(), mixing="ce", **given, **arguments)
    assert difference(stock, kit.trainer(Trainer, model=model(), **given, **arguments)) > 1e-4
    assert difference(stock, ours) <= 1e-6


def test_the_load_balancing_loss_is_no_multiple_under_accumulation(kit, difference):
    given = {"train_dataset": token_batch(kit, 8).select([1] * 8), "mixing": "ce"}  # the same row: the same routing
    arguments = {"max_steps": 1, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0}
    joined = kit.train(model=mixtral(), **given, **arguments)
    split = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    assert difference(joined, kit.train(model=mixtral(), **given, **arguments, **split)) <= 1e-6


def test_the_mixin_extends_other_trainers(kit):
    class Counting(Trainer):
        steps = 0

        def training_step(self, *args, **kwargs):
            self.steps += 1
            return super().training_step(*args, **kwargs)

    class Mixed(MixedLossMixin, Counting):
        pass

    trainer = kit.train(Mixed, mixing="0", max_steps=3)
    assert trainer.steps == 3
    assert trainer.state.log_history[0]["beta"] == 1


@pytest.mark.parametrize("n_gpu", [1, 2, 4])
@pytest.mark.parametrize("average", [True, False])
def test_the_count_under_dataparallel_divides_once(kit, monkeypatch, n_gpu, average):
    """Without GPUs the Trainer is told that it has some: it then counts once for each and scales by their number."""
    trainer = kit.trainer(mixing="el", model=kit.sequence_model(dropout=0), average_tokens_across_devices=average)
    batch = trainer.data_collator([trainer.train_dataset[k] for k in range(8)])
    expected = trainer.compute_loss(trainer.model, dict(batch)).item()
    trainer.args._n_gpu = n_gpu
    count = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
    loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=count)
    assert loss.mean().item() == pytest.approx(expected, rel=1e-6)


def test_a_batch_without_labels_is_refused(kit):
    with pytest.raises(UsageError, match="'labels', but it has only input_ids"):
        kit.train(train_dataset=kit.sequence_rows(8).remove_columns("labels"))


def test_float_labels_are_refused(kit):
    rows = [{"input_ids": [3, 4], "labels": [0.0, 1.0, 0.0]}] * 8  # a list declares no features
    with pytest.raises(UsageError, match="0 or 1"):
        kit.train(train_dataset=[{"input_ids": [3, 4], "labels": [0.0, 0.3, 0.0]}] * 8)
    rows = [{"input_ids": [3, 4], "labels": 0.5}] * 8
    with pytest.raises((UsageError, RuntimeError), match="label"):
        kit.train(train_dataset=rows)


def test_both_a_loss_function_and_mixing_are_refused(kit):
    args = TrainingArguments(str(kit.folder), report_to="none", use_cpu=True)
    for given in ({"mixing": "ce"}, {}):
        with pytest.raises(UsageError, match="compute_loss_func"):
            MixedLossTrainer(model=kit.sequence_model(), args=args, compute_loss_func=lambda *_, **__: 0, **given)


def test_labels_of_shape_n_by_1_are_accepted(kit, difference):
    column = kit.sequence_rows(16).map(lambda row: {"labels": [row["labels"]]})
    stock = kit.train(Trainer, model=kit.sequence_model(), train_dataset=column)
    ours = kit.train(mixing="ce", model=kit.sequence_model(), train_dataset=column)
    assert difference(stock, ours) <= 1e-6


@pytest.mark.parametrize("name", ["loss", "mixing"])
def test_a_search_over_the_loss_trains_what_it_says(kit, logged, name):
    args = MixedLossArguments(
        str(kit.folder), mixing="ce", max_steps=2, logging_steps=1, report_to="none", use_cpu=True
    )
    trainer = MixedLossTrainer(model=kit.sequence_model(), args=args, train_dataset=kit.sequence_rows(8))
    setattr(trainer.args, name, "el")  # as `hyperparameter_search` does before it trains
    trainer.train()
    assert logged(trainer, "alpha") == [0, 0]
    assert str(trainer.mixing_callback.schedule) == trainer.args.loss == "el"


def test_the_arguments_say_what_is_trained(kit):
    args = MixedLossArguments(str(kit.folder), mixing="ce", report_to="none", use_cpu=True)
    assert MixedLossTrainer(model=kit.sequence_model(), args=args, mixing=0.3).args.loss == "mix:0.3"


def stock_with(function):
    """A `compute_loss_func` for the stock Trainer: a mean over the rows of the whole step."""

    def compute(outputs, labels, num_items_in_batch=None):
        count = len(labels) if num_items_in_batch is None else num_items_in_batch
        return function(outputs.logits.float(), labels).sum() / count

    return compute


def squared(logits, labels, power=2.0):
    """A custom loss."""
    return F.cross_entropy(logits, labels, reduction="none") ** power


PLAIN_LOSSES = {
    "focal:gamma=2,alpha=0.25": lambda p: -0.25 * (1 - p) ** 2 * p.log(),
    "gce:q=0.7": lambda p: (1 - p**0.7) / 0.7,
    "tce:a=0.2": lambda p: ((1 - p.log()) ** 0.8 - 1) / 0.8,
    "mae": lambda p: 2 * (1 - p),
    squared: lambda p: p.log() ** 2,
}


@pytest.mark.parametrize("loss", [*PLAIN_LOSSES, "mpce"], ids=lambda loss: getattr(loss, "__name__", loss))
def test_other_losses_train_as_the_stock_trainer_with_a_plain_function(kit, difference, logged, loss):
    def plain(logits, labels):
        p = logits.softmax(-1)
        p_y = p.gather(-1, labels[:, None]).squeeze(-1)
        return -(p.max(-1).values - p_y) * p_y.log() if loss == "mpce" else PLAIN_LOSSES[loss](p_y)

    split = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    stock = kit.train(Trainer, compute_loss_func=stock_with(plain), **split)
    ours = kit.train(loss=loss, **split)
    assert difference(stock, kit.trainer(Trainer)) > 1e-3
    assert difference(stock, ours) <= 1e-5
    np.testing.assert_allclose(logged(ours, "loss"), logged(stock, "loss"), atol=1e-6)
    assert len(logged(ours, "loss_ce")) == len(logged(ours, "loss_el")) == len(logged(ours, "loss"))
    assert logged(ours, "alpha") == []


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
def test_rescaled_cross_entropy_rescales_the_learning_rate(kit, difference, logged, optim):
    """With Adam, multiplying the loss would change next to nothing."""
    given = {"optim": optim, "weight_decay": 0.1, "lr_scheduler_type": "constant"}
    ours = kit.train(loss="ce-rescaled:0.4,logit=other", learning_rate=1e-3, **given)
    plain = kit.train(mixing="ce", learning_rate=3.5e-3, **given)
    assert difference(ours, plain) <= 1e-7
    assert set(logged(ours, "learning_rate")) == {1e-3}
    assert set(logged(ours, "learning_rate_factor")) == {3.5}


def test_rescaled_cross_entropy_follows_its_schedule(kit, logged):
    ours = kit.train(loss="ce-rescaled:0,0.5", max_steps=20)
    stock = kit.train(Trainer, max_steps=20)
    assert logged(ours, "learning_rate_factor") == pytest.approx([4 / 3] * 19 + [1 / 3])
    assert logged(ours, "learning_rate") == logged(stock, "learning_rate")


@pytest.mark.parametrize("loss", ["focal", "mpce", "gce"])
def test_label_smoothing_with_a_loss_that_has_none_is_refused(kit, loss):
    with pytest.raises(UsageError, match="Label smoothing cannot be applied to the loss"):
        kit.trainer(loss=loss, label_smoothing_factor=0.1)
    kit.trainer(loss="ce-rescaled:0", label_smoothing_factor=0.1)


def test_mixing_is_a_short_form_of_loss(kit, tmp_path):
    assert (
        kit.trainer(loss="mix:0,0.5").mixing_callback.schedule == kit.trainer(mixing="0,0.5").mixing_callback.schedule
    )
    with pytest.raises(UsageError, match="Expected mixing or loss, but got mixing '0' and loss 'focal'"):
        kit.trainer(mixing="0", loss="focal")
    args = MixedLossArguments(str(tmp_path), loss="focal:gamma=1", report_to="none", use_cpu=True)
    assert (args.mixing, args.loss) == (None, "focal:gamma=1,alpha=1")
    trainer = MixedLossTrainer(model=kit.sequence_model(), args=args)
    assert str(trainer.mixing_callback.schedule) == "focal:gamma=1,alpha=1"
    assert MixedLossTrainer(kit.sequence_model(), args, loss=squared).args.loss == "squared:power=2"


def test_centres_are_put_in_place_of_the_classifier(kit, difference, logged, tmp_path):
    split = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    model = kit.sequence_model()
    use_mahalanobis_head(model, 3)
    nearest = stock_with(lambda logits, labels: F.nll_loss(logits, labels, reduction="none"))
    stock = kit.train(Trainer, model=model, compute_loss_func=nearest, **split)
    ours = kit.train(loss="mmc:scale=3", **split)
    assert isinstance(ours.model.classifier, MahalanobisHead)
    assert difference(stock, ours) <= 1e-6
    np.testing.assert_allclose(logged(ours, "loss"), logged(stock, "loss"), rtol=1e-5)
    ours.save_model(str(tmp_path / "saved"))
    again = kit.trainer(model=type(model).from_pretrained(tmp_path / "saved"), loss="mmc:scale=3")
    assert again.evaluate()["eval_loss"] == pytest.approx(ours.evaluate()["eval_loss"], rel=1e-5)


def test_each_model_of_a_search_gets_its_centres(kit, tmp_path):
    args = TrainingArguments(str(tmp_path), max_steps=1, report_to="none", use_cpu=True, disable_tqdm=True)
    trainer = MixedLossTrainer(
        args=args, model_init=lambda: kit.sequence_model(), train_dataset=kit.sequence_rows(8), loss="mmc:scale=3"
    )
    trainer.train()  # on a model of its own
    assert isinstance(trainer.model.classifier, MahalanobisHead)


@pytest.mark.parametrize(("first", "then"), [("ce", "mmc"), ("mmc", "ce"), ("focal", "cot")])
def test_a_search_cannot_change_to_a_loss_that_needs_another_trainer(kit, tmp_path, first, then):
    args = MixedLossArguments(str(tmp_path), loss=first, max_steps=1, report_to="none", use_cpu=True)
    trainer = MixedLossTrainer(model=kit.sequence_model(), args=args, train_dataset=kit.sequence_rows(8))
    trainer.args.loss = then
    with pytest.raises(UsageError, match="A search cannot change the loss from"):
        trainer.train()


@pytest.mark.parametrize("metrics", [{}, {"eval_accuracy": 0.9, "eval_f1": 0.5}])
def test_the_default_objective_of_a_search_is_the_trainers(kit, monkeypatch, metrics):
    given = {"eval_loss": 0.25, "epoch": 1.0, "eval_runtime": 3.0, "eval_samples_per_second": 9.0, **metrics}
    monkeypatch.setattr(Trainer, "hyperparameter_search", lambda self, space, objective, **more: objective)
    objective = kit.trainer().hyperparameter_search(direction="minimize")
    assert objective({**given, "eval_loss_el": 0.125}) == default_compute_objective(given)
    assert kit.trainer().hyperparameter_search(compute_objective=len) is len


def test_evaluation_with_liger_kernels_has_logits(kit):
    """The Trainer then asks the model to skip its logits, which only a model that is given labels can do."""
    trainer = kit.trainer(prediction_loss_only=True)
    expected = trainer.evaluate()["eval_loss"]
    trainer.args.use_liger_kernel = True
    assert trainer.evaluate()["eval_loss"] == expected


def test_a_subclass_that_does_not_use_the_loss_is_refused(kit):
    class Own(MixedLossTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, **more):
            return F.cross_entropy(model(inputs["input_ids"]).logits, inputs["labels"])

    class Doubled(MixedLossTrainer):
        def compute_loss(self, *args, **more):
            return 2 * super().compute_loss(*args, **more)

    with pytest.raises(UsageError, match=r"Expected Own.compute_loss to call super\(\).compute_loss"):
        kit.train(Own)
    assert kit.train(Doubled, mixing="ce", max_steps=1).state.log_history[0]["loss"] == pytest.approx(
        2 * np.log(3), abs=0.2
    )


@pytest.mark.parametrize("mixing", ["ce", "0-0.5", "el"])
def test_multi_label_heads(kit, difference, logged, mixing):
    """Each label is a problem of two classes; with cross entropy it is the loss of the stock model."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 2, (16, 3), generator=generator).float()
    rows = [{"input_ids": torch.tensor(row["input_ids"]), "labels": targets[k]} for k, row in
            enumerate(kit.sequence_rows(16))]  # fmt: skip
    given = {"train_dataset": rows, "eval_dataset": rows, "max_steps": 1, "per_device_train_batch_size": 16}
    build = lambda: kit.sequence_model(dropout=0, problem_type="multi_label_classification")  # noqa: E731
    ours = kit.trainer(model=build(), mixing=mixing, **given)
    stock = kit.trainer(Trainer, model=build(), **given)
    assert ours.evaluate()["eval_loss"] == pytest.approx(stock.evaluate()["eval_loss"], rel=1e-5)
    p = build()(torch.stack([row["input_ids"] for row in rows])).logits.sigmoid()
    p_y = torch.where(targets > 0, p, 1 - p)
    ours.train()
    alpha, beta = logged(ours, "alpha")[0], logged(ours, "beta")[0]
    assert logged(ours, "loss") == [pytest.approx((-alpha * p_y.log() + beta * (1 - p_y)).mean().item(), rel=1e-5)]
    if mixing == "ce":
        stock.train()
        assert difference(stock, ours) <= 1e-6


def resumable(kit, folder, mixing="0-0.5", **given):
    return kit.trainer(
        mixing=mixing, output_dir=str(folder), save_strategy="steps", save_steps=2, max_steps=6, **given
    )


def test_training_resumes_with_the_loss_it_began_with(kit, difference, tmp_path):
    whole = resumable(kit, tmp_path)
    whole.train()
    resumed = resumable(kit, tmp_path)
    assert resumed.train(str(tmp_path / "checkpoint-4")).global_step == 6
    assert difference(whole, resumed) == 0
    for other in ("ce", "0,0.5"):
        with pytest.raises(UsageError, match=rf"the loss 'mix:0-0.5', .* but got '(mix:)?{other}'"):
            resumable(kit, tmp_path, other).train(str(tmp_path / "checkpoint-4"))
    resumable(kit, tmp_path, "0,0.5").train()  # whose first half is that of "0"
    assert resumable(kit, tmp_path, "0").train(str(tmp_path / "checkpoint-2")).global_step == 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "its model.safetensors is damaged"),
        ("optimizer.pt", "its optimizer.pt cannot be read"),
        ("trainer_state.json", "its trainer_state.json cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_refused_with_a_whole_one(kit, tmp_path, name, message):
    resumable(kit, tmp_path).train()
    path = tmp_path / "checkpoint-4" / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UsageError, match=rf"{message}.*checkpoint-(2|6)"):
        resumable(kit, tmp_path).train(str(path.parent))


def test_adapters_resume(kit, tmp_path):
    peft = pytest.importorskip("peft")
    model = lambda: peft.get_peft_model(kit.sequence_model(), peft.LoraConfig(task_type="SEQ_CLS", r=2))  # noqa: E731
    resumable(kit, tmp_path, model=model()).train()
    assert resumable(kit, tmp_path, model=model()).train(str(tmp_path / "checkpoint-4")).global_step == 6
    path = tmp_path / "checkpoint-4" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UsageError, match="its adapter_model.safetensors is damaged"):
        resumable(kit, tmp_path, model=model()).train(str(path.parent))
