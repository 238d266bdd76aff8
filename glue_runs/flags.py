"""Read the flags of ``glue-runs finetune``: those of run_glue and of the Trainer, and ``--mixing`` or ``--loss``.

What can be wrong without PyTorch is checked before it is imported, which takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glue_runs.arguments import DataArguments, ModelArguments
from glue_runs.tasks import GLUE_TASKS, find_task
from hf_elmix.cli.argument_files import read_arguments, short
from hf_elmix.cli.base import check_folder, name_of_flag
from hf_elmix.cli.training_flags import FlagParser, check_training
from hf_elmix.errors import UsageError, in_one_line, not_one_of
from hf_elmix.losses.registry import choose_loss
from hf_elmix.text.files import check_file

if TYPE_CHECKING:
    from glue_runs.training_arguments import FinetuneArguments

__all__ = ["GONE", "STOCK", "UNUSABLE", "chosen_loss", "parse"]

PROG = "glue-runs finetune"
STOCK = "none"  # the value of --mixing or --loss for the model's own loss in the stock Trainer
ACTIONS = ("do_train", "do_eval", "do_predict")
SPLIT_FLAGS = (
    "dataset_config_name",
    "text_column_names",
    "text_column_delimiter",
    "label_column_name",
    "train_split_name",
    "validation_split_name",
    "test_split_name",
    "metric_name",
    "shuffle_train_dataset",
)
LESS = {"train": "only --do_eval or --do_predict", "validation": "only --do_train", "test": "leave --do_predict out"}
EVALUATES = ("eval_strategy", "eval_steps", "load_best_model_at_end")  # flags that ask for an evaluation

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

# Flags that have no effect without another.
NEEDS = {
    "shuffle_seed": "shuffle_train_dataset",
    **dict.fromkeys(("test_file", "test_split_name", "max_predict_samples"), "do_predict"),
    **dict.fromkeys(("hub_model_id", "hub_private_repo"), "push_to_hub"),
    "class_weights": "do_train",
}


@dataclass
class EarlyArguments:
    """The arguments of `FinetuneArguments` that are checked before it is imported."""

    output_dir: str | None = None
    mixing: str | None = None
    loss: str | None = None
    class_weights: list[str] | None = None
    do_train: bool = False
    do_eval: bool = False
    do_predict: bool = False
    eval_strategy: str = "epoch"

    def __post_init__(self) -> None:
        chosen_loss(self.mixing, self.loss, self.class_weights)

    def actions(self, names: Collection[str]) -> set[str]:
        """Those of `ACTIONS` that the flags with these names ask for; without any, training and evaluation."""
        if not {*ACTIONS} & {*names}:
            return {"do_train", "do_eval"}
        evaluates = "do_eval" not in names and {*EVALUATES} & {*names} and self.eval_strategy != "no"
        return {name for name in ACTIONS if getattr(self, name) or (name == "do_eval" and evaluates)}


def chosen_loss(mixing: str | None, loss: str | None, class_weights: Sequence[str] | None) -> str:
    """The loss that the flags name, which is `STOCK` or one that `hf_elmix.parse_loss` reads.

    Raises:
        UsageError: If it does not exist, or flags contradict each other.
    """
    if STOCK not in (mixing, loss):
        return str(choose_loss(mixing, loss))
    if others := {mixing, loss} - {STOCK, None}:
        raise UsageError(f"{STOCK!r} is the model's own loss, but {others.pop()!r} is given, too. Leave one out.")
    if class_weights is not None:
        raise UsageError(f"--class_weights needs another loss than {STOCK}, which has none. Add --mixing ce.")
    return STOCK


def parse(words: Sequence[str]) -> tuple[DataArguments, ModelArguments, FinetuneArguments]:
    """Parse a command line.

    Flags may also come from a file: ``--config FILE``, or a first word that ends in .json, .yaml or .yml. Those on the
    command line override those in the file. Without ``--do_train``, ``--do_eval`` and ``--do_predict``, the model is
    trained and evaluated.

    Args:
        words: The command line after ``finetune``.

    Raises:
        UsageError: If a flag is unknown, a value is not valid, no rows are named, or a file of rows does not exist.
    """
    words = _with_config(list(words))
    names = [name_of_flag(word) for word in words if word.startswith("--")]
    _check_names(names)
    data, _, early, _ = _parsed((DataArguments, ModelArguments, EarlyArguments), words)
    actions = early.actions(names)
    for flag, needed in NEEDS.items():
        if flag in names and needed not in (actions if needed in ACTIONS else names):
            raise UsageError(f"--{flag} has no effect here: it needs --{needed}. Add that, or leave it out.")
    _check_rows(data, actions)
    if early.output_dir is None:
        raise UsageError("Expected --output_dir with a folder for the model and its scores.")
    check_folder(early.output_dir)

    from transformers.trainer_utils import IntervalStrategy

    from glue_runs.training_arguments import FinetuneArguments

    kinds = (DataArguments, ModelArguments, FinetuneArguments)
    data, model, args, unknown = _parsed(kinds, words)
    if unknown:
        FlagParser(kinds, PROG).refuse(unknown[0], words)
    for action in ACTIONS:
        setattr(args, action, action in actions)
    if "do_eval" not in actions:
        args.eval_strategy = IntervalStrategy.NO
    check_training(args, names, [] if args.loss == STOCK else [args.loss])
    return data, model, args


def _parsed(kinds: tuple[type, ...], words: Sequence[str]) -> Any:
    """An object of each of these dataclasses, and the words that are no flags of theirs."""
    try:
        return FlagParser(kinds, PROG).parse_args_into_dataclasses(
            list(words), return_remaining_strings=True, look_for_args_file=False
        )
    except UsageError:
        raise
    except Exception as error:  # libraries that the Trainer's arguments configure raise errors of any type
        raise UsageError(in_one_line(error)) from error


def _check_rows(data: DataArguments, actions: Collection[str]) -> None:
    """Refuse flags that name no rows for something that is to be done, and files that do not exist."""
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
        if action in actions:
            given = " and ".join(f"--{split}_file" for split in data.files)
            raise UsageError(
                f"Expected --{usual}_file for --{action}, but got only {given}. Type it, or {LESS[usual]}."
            )
    for path in data.files.values():
        check_file(path)


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
