"""The loss as a function: schedules, logs and refusals. Each kind of model is in test_every_trainer.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    BertForQuestionAnswering,
    MixtralConfig,
    MixtralForCausalLM,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from hf_elmix import MixedLossArguments, UsageError, mixed_loss_func


def with_function(kit, loss="0-0.5", **given):
    function = mixed_loss_func(loss)
    return kit.trainer(Trainer, compute_loss_func=function, callbacks=[function], **given)


def trained(kit, loss="0-0.5", **given):
    trainer = with_function(kit, loss, **given)
    trainer.train()
    return trainer


@pytest.mark.parametrize("loss", ["0-0.5", "focal:gamma=2", "mpce", "ce-rescaled:0.4"])
def test_it_trains_as_the_mixin_does(kit, difference, logged, loss):
    """A schedule, accumulation, a ragged last step, and logs over several steps."""
    given = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "logging_steps": 2}
    function, mixin = trained(kit, loss, **given), kit.train(loss=loss, **given)
    assert difference(function, mixin) <= 1e-7
    for name in ("loss", "loss_ce", "loss_el", *mixin.mixing_callback.current_loss.logged()):
        np.testing.assert_allclose(logged(function, name), logged(mixin, name), rtol=1e-6, err_msg=name)
        assert logged(function, name)


def test_label_smoothing_is_the_stock_trainers(kit, difference):
    given = {"label_smoothing_factor": 0.1, "max_steps": 4}
    stock, ours = kit.train(Trainer, **given), trained(kit, "ce", **given)
    assert difference(stock, ours) <= 1e-6
    assert ours.evaluate()["eval_loss"] == pytest.approx(stock.evaluate()["eval_loss"], abs=1e-6)
    with pytest.raises(UsageError, match="Label smoothing cannot be applied to the loss 'focal"):
        with_function(kit, "focal", label_smoothing_factor=0.1)


def test_evaluation_is_cross_entropy_in_every_phase(kit):
    losses = {with_function(kit, loss).evaluate()["eval_loss"] for loss in ("ce", "el", "0-0.5", "focal")}
    assert losses == {kit.trainer(mixing="0").evaluate()["eval_loss"]}


def test_callbacks_that_come_later_see_the_logs(kit, capsys):
    trainer = with_function(kit, max_steps=1)
    trainer.add_callback(PrinterCallback)
    trainer.train()
    assert "'loss_el'" in capsys.readouterr().out


def test_a_function_that_is_not_a_callback_is_refused(kit):
    with pytest.raises(UsageError, match=r"callbacks=\[f\]"):
        kit.train(Trainer, compute_loss_func=mixed_loss_func())


def test_the_callback_can_be_added_later(kit, logged):
    function = mixed_loss_func("el")
    trainer = kit.trainer(Trainer, compute_loss_func=function, max_steps=1)
    trainer.add_callback(function)
    trainer.train()
    assert logged(trainer, "beta") == [1]


def test_its_loss_holds_whatever_the_arguments_say(kit, difference, logged):
    """`MixedLossArguments` have a loss of their own, by default the mixed one."""
    given = {"max_steps": 2, "arguments": MixedLossArguments}
    trainer = trained(kit, "focal:gamma=2", **given)
    assert difference(trainer, kit.train(loss="focal:gamma=2", max_steps=2)) <= 1e-7
    assert trainer.args.loss == "focal:gamma=2,alpha=1"
    with pytest.raises(UsageError, match="does not weight classes"):
        trained(kit, arguments=lambda **given: MixedLossArguments(**given, class_weights="balanced"))


def test_a_batch_without_labels_is_refused(kit):
    with pytest.raises(UsageError, match="'labels', but it has none"):
        trained(kit, train_dataset=kit.sequence_rows(8).remove_columns("labels"))


SIZES = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 60, "max_position_embeddings": 16}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}


def test_an_encoder_decoder_needs_decoder_inputs(kit):
    """Without labels BART would silently make its decoder inputs from the inputs, and train on them."""
    rows = kit.sequence_rows(8)
    backwards = [row[::-1] for row in rows["input_ids"]]
    rows = rows.remove_columns("labels").add_column("labels", backwards)
    model = BartForConditionalGeneration(BartConfig(**SIZES, **HEADS, **ENDS))
    with pytest.raises(UsageError, match=r"DataCollatorForSeq2Seq\(tokenizer, model\)"):
        trained(kit, model=model, train_dataset=rows, eval_dataset=None)
    model(input_ids=torch.tensor([[3, 4]]))  # the model is unchanged
    trained(kit, model=model, train_dataset=rows.add_column("decoder_input_ids", rows["labels"]), max_steps=1)


def test_a_custom_collator_can_make_the_decoder_inputs(kit):
    rows = [{"input_ids": [3, 4, 2], "labels": [4, 5, 2]}] * 8
    model = BartForConditionalGeneration(BartConfig(**SIZES, **HEADS, **ENDS))

    def collate(rows):
        batch = {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
        return {**batch, "decoder_input_ids": batch["labels"].roll(1, -1)}

    trainer = trained(kit, model=model, train_dataset=rows, eval_dataset=rows, data_collator=collate, max_steps=1)
    assert trainer.state.global_step == 1


def test_an_encoder_decoder_that_classifies_needs_none(kit):
    rows = [{"input_ids": torch.tensor([3, 4, 2]), "labels": k % 3} for k in range(8)]
    model = BartForSequenceClassification(BartConfig(**SIZES, **HEADS, **ENDS, num_labels=3))
    trainer = trained(kit, model=model, train_dataset=rows, eval_dataset=rows, max_steps=1)
    assert trainer.state.global_step == 1


def demanding(kit):
    class Model(type(kit.sequence_model())):
        def forward(self, input_ids, labels):
            return super().forward(input_ids, labels=labels)

    return Model(kit.config())


def experts(kit):
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    more = {"num_key_value_heads": 2, "num_local_experts": 2, "vocab_size": 60, "output_router_logits": True}
    return MixtralForCausalLM(MixtralConfig(**small, **more))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda kit: BertForQuestionAnswering(kit.config()), "returns no class logits"),
        (lambda kit: kit.sequence_model(num_labels=1), "which is regression"),
        (demanding, "cannot be called without labels. Use hf_elmix.MixedLossMixin"),
        (experts, "load-balancing loss of its experts only to its own loss. Use hf_elmix.MixedLossMixin"),
    ],
)
def test_models_that_are_refused(kit, make, words):
    with pytest.raises(UsageError, match=words):
        with_function(kit, model=make(kit))


def test_losses_that_cannot_be_used_are_refused(kit):
    with pytest.raises(UsageError, match="two steps for each batch"):
        with_function(kit, "cot")
    with pytest.raises(UsageError, match="Did you mean '0-0.5'"):
        mixed_loss_func("0-0.6")


def test_sequence_parallelism_is_refused(kit):
    function = mixed_loss_func()
    args = TrainingArguments(str(kit.folder), report_to="none", use_cpu=True)
    args.parallelism_config = type("Config", (), {"sp_enabled": True})()
    with pytest.raises(UsageError, match="Sequence parallelism"):
        function.on_init_end(args, None, None, model=kit.sequence_model())


def test_a_loss_that_needs_its_own_head_is_refused(kit):
    f = mixed_loss_func("mmc:scale=3")
    with pytest.raises(UsageError, match="'mmc:scale=3' needs a special head. Use MixedLossTrainer"):
        kit.trainer(Trainer, compute_loss_func=f, callbacks=[f])
