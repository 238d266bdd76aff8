"""Complement objective training, compared with the procedure written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from transformers import get_linear_schedule_with_warmup

from hf_elmix import ComplementTrainer, MixedLossArguments, MixedLossTrainer, UsageError
from hf_elmix.losses import complement_entropy
from hf_elmix.losses.registry import parse_loss
from hf_elmix.training.complement import trainer_for


def entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Eq. 6 of each sample over C - 1, from probabilities."""
    p, classes = logits.softmax(-1), logits.shape[-1]
    p_y = p.gather(-1, labels[:, None])
    share = (p / (1 - p_y)).masked_fill(F.one_hot(labels, classes).bool(), 1)  # whose logarithm is 0
    return -(share * share.log()).sum(-1) / (classes - 1)


def by_hand(trainer: ComplementTrainer, accumulation: int, autocast: bool = False) -> list[float]:
    """Trains its model with two steps for each group of batches, in the order of the rows; the CE of each group."""
    model, args = trainer.model, trainer.args
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0)
    steps = int(trainer.set_initial_training_values(args, trainer.get_train_dataloader())[-1])
    scheduler = get_linear_schedule_with_warmup(optimizer, 0, steps)
    losses: list[float] = []
    rows = trainer.train_dataset.with_format("torch")
    for _ in range(int(args.num_train_epochs)):
        batches = list(DataLoader(rows, args.per_device_train_batch_size, shuffle=False))
        for start in range(0, len(batches), accumulation):
            group = batches[start : start + accumulation]
            count = sum(len(batch["labels"]) for batch in group)
            for second in (False, True):
                total = torch.tensor(0.0)
                for batch in group:
                    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                        logits = model(batch["input_ids"]).logits
                    logits = logits.float()
                    each = entropy(logits, batch["labels"]).neg() if second else None
                    loss = F.cross_entropy(logits, batch["labels"], reduction="none") if each is None else each
                    total = total + loss.sum() / count
                optimizer.zero_grad()
                total.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
                optimizer.step()
                if not second:
                    losses.append(total.item())
            scheduler.step()
    return losses


def trainer_of(kit, accumulation: int = 1, **given):
    """Batches in the order of the rows, without dropout: 34 rows in batches of 4, so that the last is smaller."""
    given = {"model": kit.sequence_model(dropout=0), "train_dataset": kit.sequence_rows(34), **given}
    return kit.trainer(
        ComplementTrainer,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulation,
        train_sampling_strategy="sequential",
        optim="adamw_torch",
        **given,
    )


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("bf16", [False, True])
def test_two_steps_for_each_batch(kit, difference, logged, accumulation, bf16):
    ours, plain = (trainer_of(kit, accumulation, bf16=bf16) for _ in range(2))
    ours.train()
    plain.model.train()
    losses = by_hand(plain, accumulation, autocast=bf16)
    np.testing.assert_allclose(logged(ours, "loss"), losses, atol=2e-3 if bf16 else 1e-5)
    moved = difference(ours, trainer_of(kit))
    assert moved > 4e-3
    assert difference(ours, plain) <= (0.2 * moved if bf16 else 1e-5)
    assert ours.state.global_step == len(losses)  # both steps are one to the Trainer
    entropies = logged(ours, "complement_entropy")
    assert len(entropies) == len(losses)
    assert 0 < min(entropies) <= max(entropies) <= np.log(2) / 2 + 1e-6


def test_the_second_step_evens_out_the_incorrect_classes(kit):
    rows = kit.sequence_rows(40)
    scores = {}
    for kind, given in ((ComplementTrainer, {}), (MixedLossTrainer, {"mixing": "ce"})):
        trainer = kit.train(kind, model=kit.sequence_model(dropout=0), train_dataset=rows, num_train_epochs=6, **given)
        with torch.no_grad():
            logits = trainer.model.eval()(torch.tensor(rows["input_ids"])).logits
        scores[kind] = complement_entropy(logits, torch.tensor(rows["labels"])).item()
    assert scores[ComplementTrainer] > scores[MixedLossTrainer]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_resuming_is_bit_identical_to_not_stopping(kit, difference, accumulation):
    given = {"save_strategy": "steps", "save_steps": 1, "gradient_accumulation_steps": accumulation}
    rows = {"train_dataset": kit.sequence_rows(40 * accumulation)}
    unbroken = kit.train(ComplementTrainer, **given, **rows, model=kit.sequence_model())
    checkpoint = f"{unbroken.args.output_dir}/checkpoint-3"
    again = {**given, **rows, "model": kit.sequence_model(), "resume_from_checkpoint": checkpoint}
    assert difference(unbroken, kit.train(ComplementTrainer, **again)) == 0


def test_tokens_that_do_not_count_are_left_out(kit, logged):
    trainer = kit.train(ComplementTrainer, **kit.tokens())
    assert np.isfinite(logged(trainer, "complement_entropy")).all()


def test_models_and_losses_without_a_complement_are_refused(kit, tmp_path):
    with pytest.raises(UsageError, match="three classes or more, but the model has 2.*only one"):
        kit.trainer(ComplementTrainer, model=type(kit.sequence_model())(kit.config(num_labels=2)))
    with pytest.raises(
        UsageError, match="Expected the loss 'cot', but got 'focal:gamma=2,alpha=1'. Use MixedLossTrainer"
    ):
        kit.trainer(ComplementTrainer, loss="focal")
    with pytest.raises(UsageError, match="Label smoothing cannot be applied to the loss 'cot'"):
        kit.trainer(ComplementTrainer, label_smoothing_factor=0.1)
    with pytest.raises(UsageError, match="two steps for each batch. Use hf_elmix.ComplementTrainer"):
        kit.trainer(MixedLossTrainer, loss="cot")


def test_the_trainer_of_a_loss(kit, tmp_path):
    assert trainer_for(parse_loss("cot")) is ComplementTrainer
    assert trainer_for(parse_loss("focal")) is MixedLossTrainer
    args = MixedLossArguments(str(tmp_path), loss="cot", report_to="none", use_cpu=True)
    assert ComplementTrainer(kit.sequence_model(), args).args.loss == "cot"
