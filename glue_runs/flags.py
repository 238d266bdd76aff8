"""The flags of ``glue-runs finetune``: those of run_glue and of the Trainer, and ``--mixing`` or ``--loss``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from glue_runs.arguments import DataArguments, ModelArguments, flag
from glue_runs.tasks import GLUE_TASKS, find_task
from hf_elmix.cli.argument_files import read_arguments, short
from hf_elmix.cli.base import check_folder, name_of_flag
from hf_elmix.cli.help import add_flags_of
from hf_elmix.cli.study import PRECISIONS
from hf_elmix.cli.training_flags import FlagParser, check_training
from hf_elmix.errors import UsageError, in_one_line, not_one_of
from hf_elmix.training.arguments import MixedLossArguments
from hf_elmix.training.precision import choose_precision, has_accelerator

__all__ = ["STOCK", "FinetuneArguments", "add_all_flags", "parse"]

STOCK = "none"  # the value of --mixing or --loss for the model's own loss in the stock Trainer
ACTIONS = ("do_train", "do_eval", "do_predict")
SPLIT_FLAGS = (
    "dataset_config_name",
    "text_column_names",
    "label_column_name",
    "train_split_name",
    "validation_split_name",
    "test_split_name",
    "metric_name",
    "shuffle_train_dataset",
)
LESS = {"train": "only --do_eval or --do_predict", "validation": "only --do_train", "test": "leave --do_predict out"}
EVALUATES = ("do_eval", "eval_strategy", "eval_steps", "load_best_model_at_end")  # flags that ask for an evaluation

LANGUAGE = "type --dataset_name facebook/xnli --dataset_config_name LANGUAGE"

# Flags that the examples of Transformers or an older Trainer have, and what to type instead.
GONE = {
    "cache_dir": "set the environment variable HF_HOME",
    "checkpointing_steps": "type --save_strategy steps --save_steps N",
    "config_name": "leave it out: a model is loaded with its own configuration",
    "do_lower_case": "leave it out: a tokenizer has its own setting",
    "do_regression": "leave it out: labels with a decimal point are a regression, and need --mixing none",
    "evaluation_strategy": "type --eval_strategy",
    "evaluate_during_training": "type --eval_strategy",
    "group_by_length": "type --train_sampling_strategy group_by_length",
    "language": LANGUAGE,
    "logging_dir": "set the environment variable TENSORBOARD_LOGGING_DIR",
    "max_length": "type --max_seq_length",
    "model_type": "leave it out: it is in the configuration of the model",
    "no_cuda": "type --use_cpu",
    "num_warmup_steps": "type --warmup_steps",
    "overwrite_cache": "leave it out: tokens are cached by a digest of their rows, so they are never out of date",
    "overwrite_output_dir": "leave it out, and delete the folder yourself if you no longer need it",
    "per_gpu_eval_batch_size": "type --per_device_eval_batch_size",
    "per_gpu_train_batch_size": "type --per_device_train_batch_size",
    "preprocessing_num_workers": "leave it out: rows are tokenised once, and all at a time",
    "push_to_hub_model_id": "type --hub_model_id",
    "push_to_hub_token": "log in with: hf auth login",
    "remove_columns": "leave it out: only the columns of text and labels are read",
    "remove_splits": "leave it out: only the splits that are needed are read",
    "save_safetensors": "leave it out: models are always saved as safetensors",
    **dict.fromkeys(("server_ip", "server_port"), "type: python -m debugpy --listen PORT -m glue_runs finetune …"),
    "token": "log in with: hf auth login (others can read a token in a command line)",
    "tokenizer_name": "save the tokenizer in the folder of the model",
    "train_language": f"{LANGUAGE}, then evaluate what was trained, as --model_name_or_path, on another",
    "use_auth_token": "leave it out: a login with hf auth login is used",
    "use_fast_tokenizer": "leave it out: all tokenizers are fast",
    "use_slow_tokenizer": "leave it out: all tokenizers are fast",
    "warmup_ratio": "type --warmup_steps: a value below 1 is a share of all steps",
    "with_tracking": "type --report_to with the tracker",
}

# Flags of the Trainer that would be ignored here or break the evaluation, and what to do instead.
UNUSABLE = {
    **dict.fromkeys(
        ("hub_strategy", "hub_always_push", "hub_revision"), "the model is published once, when it is done"
    ),
    **dict.fromkeys(("prediction_loss_only", "batch_eval_metrics"), "the evaluation needs all predictions at once"),
    "label_names": "name the column of labels with --label_column_name",
    "no_remove_unused_columns": "a model gets its tokens and labels, which are all columns that are kept",
}

# Pairs of flags of which one would be ignored.
EXCLUSIVE = (
    ("padding", "pad_to_max_length"),
    *(("task_name", name) for name in SPLIT_FLAGS),
    *((f"{split}_file", name) for split in ("train", "validation", "test") for name in ("task_name", "dataset_name")),
    *((f"{split}_file", "dataset_config_name") for split in ("train", "validation", "test")),
)


@dataclass
class FinetuneArguments(MixedLossArguments):
    """Training arguments with the defaults of the study (see `glue_runs.protocol`); the loss may be ``none``."""

    learning_rate: float = flag(2e-5, "Initial learning rate.")
    num_train_epochs: float = flag(6.0, "Epochs of training.")
    per_device_train_batch_size: int = flag(32, "Rows in a batch on each device.")
    per_device_eval_batch_size: int = flag(64, "Rows in a batch while evaluating.")
    eval_strategy: IntervalStrategy | str = flag("epoch", "When to evaluate.")
    logging_steps: float = flag(50, "Optimizer steps between logs.")
    report_to: list[str] = field(
        default_factory=lambda: ["none"], metadata={"help": "Trackers, such as tensorboard, trackio or wandb."}
    )

    precision: str | None = flag(
        None, "bf16, fp32, or auto: bf16 where matrix products are faster in it.", choices=PRECISIONS
    )

    def __post_init__(self) -> None:
        self.use_cpu |= not has_accelerator()  # else bf16 would be refused
        if self.precision is not None:
            if self.bf16 or self.fp16:
                raise UsageError("Expected --precision, --bf16 or --fp16, but got two of them. Leave one out.")
            self.precision, self.precision_note = choose_precision(self.precision)
            self.bf16 = self.precision == "bf16"
        if STOCK in (self.mixing, self.loss):
            if others := {self.mixing, self.loss} - {STOCK, None}:
                raise UsageError(
                    f"{STOCK!r} is the model's own loss, but {others.pop()!r} is given, too. Leave one out."
                )
            if self.class_weights is not None:
                raise UsageError(f"--class_weights needs another loss than {STOCK}, which has none. Add --mixing ce.")
            self.mixing, self.loss = None, STOCK
            TrainingArguments.__post_init__(self)
        else:
            super().__post_init__()
        self.dataloader_pin_memory &= torch.cuda.is_available()  # otherwise each loader warns that it cannot pin


def add_all_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the Trainer to a parser that shows or completes them."""
    add_flags_of(FlagParser(FinetuneArguments, parser.prog), parser, UNUSABLE)


def parse(words: Sequence[str]) -> tuple[DataArguments, ModelArguments, FinetuneArguments]:
    """Parse a command line.

    Flags may also come from a file: ``--config FILE``, or a first word that ends in .json, .yaml or .yml. Those on the
    command line override those in the file. Without ``--do_train``, ``--do_eval`` and ``--do_predict``, the model is
    trained and evaluated.

    Args:
        words: The command line after ``finetune``.

    Raises:
        UsageError: If a flag is unknown, a value is not valid, or no rows are named.
    """
    words = _with_config(list(words))
    names = [name_of_flag(word) for word in words if word.startswith("--")]
    _check_names(names)
    parser = FlagParser((DataArguments, ModelArguments, FinetuneArguments), "glue-runs finetune")
    try:
        parsed: Any = parser.parse_args_into_dataclasses(
            words, return_remaining_strings=True, look_for_args_file=False
        )
    except UsageError:
        raise
    except Exception as error:  # libraries that the Trainer's arguments configure raise errors of any type
        raise UsageError(in_one_line(error)) from error
    data, model, args, unknown = parsed
    if unknown:
        parser.refuse(unknown[0])
    if not set(ACTIONS) & set(names):
        args.do_train = args.do_eval = True
    elif not set(EVALUATES) & set(names):
        # By default every epoch is evaluated, which switches do_eval on although it was not requested.
        args.do_eval, args.eval_strategy = False, IntervalStrategy.NO
    _check_rows(data, args)
    if "shuffle_seed" in names and not data.shuffle_train_dataset:
        raise UsageError("--shuffle_seed has no effect here: it needs --shuffle_train_dataset. Leave it out.")
    check_folder(args.output_dir or "")
    check_training(args, names, [] if args.loss == STOCK else [args.loss])
    return data, model, args


def _check_rows(data: DataArguments, args: FinetuneArguments) -> None:
    """Refuse flags that name no rows for something that is to be done."""
    if not (data.files or data.task_name or data.dataset_name):
        raise UsageError(
            f"Expected rows: --task_name with one of {', '.join(GLUE_TASKS)}; --dataset_name; or --train_file and "
            "--validation_file."
        )
    if data.task_name is not None:
        find_task(data.task_name.lower(), GLUE_TASKS)
    for action, usual in zip(ACTIONS, ("train", "validation", "test"), strict=True):
        named = getattr(data, f"{usual}_split_name")
        if not data.files or (named or usual) in data.files:
            continue
        if named:
            raise not_one_of(f"--{usual}_split_name", data.files, named)
        if getattr(args, action):
            given = " and ".join(f"--{split}_file" for split in data.files)
            raise UsageError(
                f"Expected --{usual}_file for --{action}, but got only {given}. Type it, or {LESS[usual]}."
            )


def _check_names(names: Sequence[str]) -> None:
    """Refuse flags that do not exist any more, and flags that would be ignored."""
    for name in names:
        if name in GONE:
            raise UsageError(f"--{name} does not exist here: {GONE[name]}.")
        if name in UNUSABLE:
            raise UsageError(f"--{name} cannot be used here: {UNUSABLE[name]}. Leave it out.")
    for one, other in EXCLUSIVE:
        if {one, other} <= {*names}:
            raise UsageError(f"Expected --{one} or --{other}, but got both, and one would be ignored. Leave one out.")


def _with_config(words: list[str]) -> list[str]:
    """The words of a command line, with the contents of a file of arguments before them."""
    if words and not words[0].startswith("-") and Path(words[0]).suffix in (".json", ".yaml", ".yml"):
        words = ["--config", *words]
    for place, word in enumerate(words):
        if word == "--config" or word.startswith("--config="):
            rest = words[place + 1 :]
            path = word.partition("=")[2] or (rest.pop(0) if rest else "")
            rest = [*words[:place], *rest]
            if any(word == "--config" or word.startswith("--config=") for word in rest):
                raise UsageError("Expected one file of arguments, but got --config twice. Put all of them into one.")
            return [*_words_in(path), *rest]
    return words


def _words_in(path: str) -> Iterator[str]:
    """The contents of a file of arguments as words of a command line."""
    values = read_arguments(path)
    if not isinstance(values, Mapping):
        raise UsageError(f"Expected {path!r} to map names of flags to values, but got {short(values)}.")
    for name, value in values.items():
        if isinstance(value, list):
            yield f"--{name}"
            for part in map(_word, value):
                if part.startswith("-"):
                    raise UsageError(f"Expected values of {name} in {path!r}, but {short(part)} looks like a flag.")
                yield part
        elif value is not None:
            yield f"--{name}={_word(value)}"


def _word(value: Any) -> str:
    try:
        return value if isinstance(value, str) else json.dumps(value)
    except TypeError:
        raise UsageError(f"Expected texts and numbers as values, but got {short(value)}. Put it in quotes.") from None
