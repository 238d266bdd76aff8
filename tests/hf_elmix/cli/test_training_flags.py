"""The bounds of training arguments, and what is tried before anything is loaded."""

from __future__ import annotations

import types
from dataclasses import fields
from typing import get_args, get_origin, get_type_hints

import pytest
from transformers import TrainingArguments

from glue_runs.arguments import DataArguments
from hf_elmix.cli.training_flags import BOUNDS, training_arguments
from hf_elmix.errors import UsageError


def numbers_of(kind: type) -> set[str]:
    """The fields of a dataclass that are numbers."""
    hints = {
        name: hint for name, hint in get_type_hints(kind).items() if name in {field.name for field in fields(kind)}
    }
    parts = {name: get_args(hint) if get_origin(hint) is types.UnionType else (hint,) for name, hint in hints.items()}
    return {name for name, part in parts.items() if int in part or float in part}


def test_every_number_has_bounds_and_every_bound_is_of_a_number():
    assert numbers_of(TrainingArguments) | numbers_of(DataArguments) == BOUNDS.keys()


def outside(bounds: str) -> list[str]:
    least, most = bounds[1:-1].split(", ")
    ends = [least] * bounds.startswith("(") + [most] * bounds.endswith(")")
    return ["nan", "-inf", "-2", *ends, *(["inf", "1e300"] if most != "inf" else [])]


@pytest.mark.parametrize("name", sorted(numbers_of(TrainingArguments)))
def test_a_number_outside_its_bounds_is_refused(name):
    for value in outside(BOUNDS[name]):
        with pytest.raises(UsageError, match=f"--{name}"):
            training_arguments([f"--{name}={value}", "--use_cpu"], "me", {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--warmup_steps 1.5", "below 1, a share of all steps, or whole"),
        ("--eval_steps 3", "--eval_steps has no effect here: it needs --eval_strategy steps"),
        ("--save_total_limit 2 --save_strategy no", "--save_total_limit has no effect here"),
        ("--adam_beta1 0.8 --optim sgd", "--adam_beta1 has no effect here: it needs an --optim with Adam"),
        ("--warmup_steps 3 --lr_scheduler_type constant", "such as constant_with_warmup"),
        ("--max_steps 5 --num_train_epochs 2", "it needs no --max_steps"),
        ("--report_to wandb", "wandb"),
        ("--report_to zzz", "zzz is not supported"),
        ("--optim galore_adamw", "galore"),
        ("--optim_args x", "unpack"),
        ("--lr_scheduler_type cosine_with_min_lr", "min_lr"),
        ("--lr_scheduler_kwargs x", "must be a mapping"),
        ('--accelerator_config {"x":1}', "unexpected keyword argument 'x'"),
        ("--fsdp full_shard", "."),
        ("--debug zzz", "zzz"),
        ("--dataloader_prefetch_factor 2", "dataloader_num_workers"),
    ],
)
def test_what_the_trainer_cannot_use_or_would_ignore_is_refused(words, message):
    with pytest.raises(UsageError, match=message) as raised:
        training_arguments([*words.split(), "--use_cpu"], "me", {})
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        *("--max_steps -1", "--seed 4294967295", "--warmup_steps 0.1", "--max_grad_norm inf", "--weight_decay 0.1"),
        *("--label_smoothing_factor 0.1", "--neftune_noise_alpha 5", "--gradient_checkpointing", "--bf16"),
        *(f"--optim {name}" for name in ("adamw_torch", "adafactor", "sgd", "adagrad", "rmsprop")),
        *(f"--lr_scheduler_type {name}" for name in ("linear", "cosine", "polynomial", "constant", "inverse_sqrt")),
        *("--adam_beta1 0.8", "--gradient_accumulation_steps 4", "--train_sampling_strategy group_by_length"),
        *("--dataloader_num_workers 2", "--data_seed 3", "--eval_accumulation_steps 2", "--logging_first_step"),
    ],
)
def test_what_the_trainer_can_use_is_accepted(words):
    assert len(training_arguments([*words.split(), "--use_cpu"], "me", {})) == 2


def test_steps_between_logs_are_followed_where_epochs_are_logged_by_default():
    study = {"logging_strategy": "epoch"}
    given = training_arguments(["--logging_steps", "3", "--use_cpu"], "me", study)
    assert given == {"logging_steps": 3.0, "logging_strategy": "steps", "use_cpu": True}
    with pytest.raises(UsageError, match="--logging_steps has no effect here: it needs --logging_strategy steps"):
        training_arguments(["--logging_steps", "3", "--logging_strategy", "epoch", "--use_cpu"], "me", study)


def test_a_schedule_that_waits_for_scores_is_accepted():
    words = ["--lr_scheduler_type", "reduce_lr_on_plateau", "--use_cpu"]
    assert training_arguments(words, "me", {"eval_strategy": "epoch"})["lr_scheduler_type"] == "reduce_lr_on_plateau"
