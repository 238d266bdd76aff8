"""The program ``glue-runs``: fine-tuning on GLUE and its study, with some commands of ``elmix``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from glue_runs import arguments, protocol
from hf_elmix.cli import push, report, status
from hf_elmix.cli.base import Command, check_folder, run_program, whole_number
from hf_elmix.cli.study import (
    INTERRUPTED,
    add_arguments,
    add_training_flags,
    check_inputs,
    losses_and_arguments,
    run_study,
)
from hf_elmix.text.tasks import PADDINGS

__all__ = ["COMMANDS", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake ends in one line on standard error and exit code 2."""
    return run_program("glue-runs", "Fine-tune on GLUE with the mixed loss, and compare losses.", COMMANDS, argv)


def _add_all_flags(parser: argparse.ArgumentParser) -> None:
    from glue_runs.training_arguments import add_all_flags

    add_all_flags(parser)


def _finetune(args: argparse.Namespace) -> int:
    """Fine-tune once, with the flags of run_glue and --mixing or --loss.

    Choose rows with --task_name, with --train_file and --validation_file, or with --dataset_name. --help_all shows the
    other flags of transformers.TrainingArguments, too.
    """
    from glue_runs.flags import parse

    parsed = parse(args.rest)
    from glue_runs.finetune import finetune  # takes seconds more

    return finetune(*parsed)


def _add_study(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("tasks").add_argument
    names = protocol.TASK_NAMES
    add("--tasks", nargs="+", choices=names, default=names, metavar="TASK", help="GLUE tasks")
    add("--model_name_or_path", default=protocol.BERT, metavar="MODEL", help="model id or folder")
    add("--dataset_name", default=protocol.GLUE, metavar="DATASET", help="dataset id or folder")
    add(
        "--max_seq_length",
        type=whole_number(1, 1_000_000),
        default=protocol.MAX_LENGTH,
        metavar="N",
        help="truncate each row to N tokens",
    )
    add("--max_train_samples", type=whole_number(1), metavar="N", help="use the first N training rows of each task")
    add("--max_eval_samples", type=whole_number(1), metavar="N", help="use the first N rows of each evaluation split")
    padding = (
        "what batches are padded to: nothing (free), their longest row, a multiple of 16 tokens, --max_seq_length"
    )
    add("--padding", choices=PADDINGS, default=PADDINGS[0], help=padding)
    executors = ("local", "stacked", "ray")
    add_arguments(parser, seeds=protocol.SEEDS, losses=protocol.MIXINGS, executors=executors)


def _study(args: argparse.Namespace) -> int:
    """Train every task with every loss and seed, with one record per run.

    The same command continues a study that was stopped. Flags of transformers.TrainingArguments, such as --bf16, are
    also accepted.
    """
    losses, arguments = losses_and_arguments(args, "glue-runs study", protocol.ARGUMENTS, protocol.MIXINGS)
    check_inputs(args.output_dir, dataset_name=args.dataset_name, model_name_or_path=args.model_name_or_path)
    from glue_runs.study import glue_study

    study = glue_study(
        args.tasks,
        args.seeds,
        losses,
        model=args.model_name_or_path,
        dataset=args.dataset_name,
        max_length=args.max_seq_length,
        max_train_samples=args.max_train_samples,
        max_eval_samples=args.max_eval_samples,
        padding=args.padding,
        in_memory=args.executor == "ray",  # its machines may not share a disk with this one
        arguments=arguments,
    )
    return run_study(study, args)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    text = "folder for the synthetic data, the study and its report"
    parser.add_argument("--output_dir", default="demo", metavar="FOLDER", help=text)


def _demo(args: argparse.Namespace) -> int:
    """Run a small example study on synthetic data, offline.

    Trains 112 small models and writes their report: no network, no account, no GPU.
    """
    from glue_runs.demo import ABOUT, demo_study

    check_folder(args.output_dir)
    print(ABOUT)
    folder = Path(args.output_dir)
    study = demo_study(folder)
    parser = argparse.ArgumentParser()
    add_arguments(parser, seeds=study.seeds, losses=())
    options = ["--output_dir", str(folder / "runs"), "--workers", "auto"]
    code = run_study(study, parser.parse_args(options, argparse.Namespace(typed=args.typed)))
    title = "Comparison of 4 methods on 7 tasks (demo, synthetic data)"
    report.report(str(folder / "runs"), args.typed, output_dir=str(folder / "report"), title=title)
    return code


COMMANDS = {
    "finetune": Command(
        _finetune,
        arguments.add_flags,
        _add_all_flags,
        raw=True,
        interrupted="Use --resume_from_checkpoint FOLDER to continue from a checkpoint, if one was saved.",
    ),
    "study": Command(_study, _add_study, add_training_flags, interrupted=INTERRUPTED),
    "status": status.COMMAND,
    "report": report.COMMAND,
    "push": push.COMMAND,
    "demo": Command(_demo, _add_demo, interrupted=INTERRUPTED),
}
