"""One fine-tuning run with run_glue's flags, and ``--mixing``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from glue_runs.data import find_task
from glue_runs.problems import glue_problem
from glue_runs.protocol import BERT, GLUE, MAX_LENGTH, PADDINGS
from glue_runs.tasks import Task
from hf_elmix.arguments import MixedLossArguments
from hf_elmix.commands import OneLineParser
from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.trainer import MixedLossTrainer

__all__ = ["DataArguments", "FinetuneArguments", "FlagParser", "ModelArguments", "check_arguments", "finetune"]


@dataclass
class DataArguments:
    """Which rows, and how much of each."""

    task_name: str = field(metadata={"help": "GLUE task: cola, sst2, mrpc, qqp, mnli, qnli or rte."})
    dataset_name: str = field(default=GLUE, metadata={"help": "Dataset id on the Hub, or a local folder like it."})
    max_seq_length: int = field(default=MAX_LENGTH, metadata={"help": "Tokens a row is cut to."})
    padding: str = field(
        default=PADDINGS[0], metadata={"help": "What batches are padded to: free (nothing), longest or max_length."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Keep so many of the first training rows."})
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Keep so many of the first rows of each evaluation split."}
    )


@dataclass
class ModelArguments:
    """Which pre-trained encoder."""

    model_name_or_path: str = field(default=BERT, metadata={"help": "Model id on the Hub, or a local folder."})


@dataclass
class FinetuneArguments(MixedLossArguments):
    """Training arguments with the protocol's defaults (see `glue_runs.protocol`)."""

    learning_rate: float = field(default=2e-5, metadata={"help": "Initial learning rate."})
    num_train_epochs: float = field(default=6.0, metadata={"help": "Epochs of training."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Rows in a batch on each device."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Rows in a batch while evaluating."})
    eval_strategy: IntervalStrategy | str = field(default="epoch", metadata={"help": "When to evaluate."})
    logging_steps: float = field(default=50, metadata={"help": "Optimizer steps between two logs."})


class FlagParser(OneLineParser, HfArgumentParser):
    """The Trainer's parser; a mistake is one line, where argparse would show more than a hundred flags first."""

    def __init__(self, kinds: Any, prog: str) -> None:
        super().__init__(kinds, prog=prog, allow_abbrev=False)


def finetune(words: Sequence[str]) -> int:
    """Fine-tune on one task, evaluate, and leave model, tokenizer, metrics and state in the output folder.

    With neither ``--do_train`` nor ``--do_eval``, both are done.

    Args:
        words: The command line after ``finetune``.

    Returns:
        The exit code, 0.

    Raises:
        UsageError: (a ValueError) If an argument, the data or the model cannot be used.
    """
    data, model, args = _parse(words)
    output_dir = Path(args.output_dir or "")
    if output_dir.exists() and not output_dir.is_dir():
        raise UsageError(f"Expected --output_dir to be a folder, but {args.output_dir!r} is a file.")
    task = find_task(data.task_name)
    check_arguments(args)
    _check_best_metric(args, task)
    _check_nothing_is_lost(args, output_dir, Path(model.model_name_or_path))
    problem = glue_problem(
        task,
        model.model_name_or_path,
        data.dataset_name,
        data.max_seq_length,
        max_train_samples=data.max_train_samples,
        max_eval_samples=data.max_eval_samples,
        padding="longest" if args.torch_compile and data.padding == "free" else data.padding,
    )
    try:
        trainer = MixedLossTrainer(args=args, **problem.materials(args.seed).trainer)
    except (ValueError, ImportError) as error:  # say, a tracker that does not exist or is not installed
        raise UsageError(in_one_line(error)) from error
    if args.do_train:
        _train(trainer)
    if args.do_eval:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    return 0


def check_arguments(args: TrainingArguments) -> None:
    """Refuse values that would only fail once training has begun.

    Raises:
        UsageError: (a ValueError) If one is outside its range.
    """
    lowest = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "seed": 0}
    for name, least in lowest.items():
        if getattr(args, name) < least:
            raise UsageError(f"Expected --{name} to be {least} or more, but got {getattr(args, name)}.")


def _check_best_metric(args: TrainingArguments, task: Task) -> None:
    name, known = args.metric_for_best_model, ("loss", "loss_el", *task.metrics)
    if name and not name.endswith(known):
        raise UsageError(f"Expected --metric_for_best_model to be one of {', '.join(known)}, but got {name!r}.")


def _check_nothing_is_lost(args: TrainingArguments, output_dir: Path, model: Path) -> None:
    """Refuse to write over a model or the results of an earlier run."""
    if args.resume_from_checkpoint is not None:
        if not Path(args.resume_from_checkpoint).is_dir():
            raise UsageError(
                f"Expected a folder, but --resume_from_checkpoint {args.resume_from_checkpoint!r} is none."
            )
        return
    evaluates_it = not args.do_train and model.resolve() == output_dir.resolve()
    held = [name for name in ("all_results.json", "config.json") if (output_dir / name).exists()]
    if held and not evaluates_it:
        raise UsageError(
            f"{args.output_dir} holds a model or a finished run ({held[0]}). Choose another --output_dir or delete it."
        )


def _parse(words: Sequence[str]) -> tuple[DataArguments, ModelArguments, FinetuneArguments]:
    kinds: Any = (DataArguments, ModelArguments, FinetuneArguments)
    parser = FlagParser(kinds, prog="glue-runs finetune")
    try:
        parsed: Any = parser.parse_args_into_dataclasses(list(words), return_remaining_strings=True)
    except ValueError as error:
        raise UsageError(in_one_line(error)) from error
    data, model, args, unknown = parsed
    if unknown:
        raise UsageError(f"Unknown argument {unknown[0]!r}. See glue-runs finetune --help.")
    # An evaluation strategy switches do_eval on, so only the words tell what was asked for.
    if not {"do_train", "do_eval"} & {word.lstrip("-").split("=")[0].replace("-", "_") for word in words}:
        args.do_train = args.do_eval = True
    return data, model, args


def _train(trainer: MixedLossTrainer) -> None:
    result = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    trainer.save_model()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()
