"""``elmix compare``: does a loss, or any training argument, help on these data?"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_elmix.cli.base import EXIT_FAILED, Command, whole_number
from hf_elmix.cli.methods import PROG, parse_methods, parse_sweeps
from hf_elmix.cli.study import (
    INTERRUPTED,
    add_execution,
    add_training_flags,
    check_execution,
    check_inputs,
    cluster_of,
    executor_of,
    precision_arguments,
    study_training_arguments,
)
from hf_elmix.errors import UsageError
from hf_elmix.losses.registry import EXAMPLES
from hf_elmix.study.spec import MAX_SEED
from hf_elmix.terminal import printable

if TYPE_CHECKING:
    from datasets import DatasetDict

    from hf_elmix.comparison.result import Comparison
    from hf_elmix.study.spec import Study, Task

__all__ = ["COMMAND"]

LOSSES = ("ce", "0-0.5")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    about = "Files, or a dataset on the Hub or in a folder: text, tables of numbers and categories, or images."
    add = parser.add_argument_group("data", about).add_argument
    add("--train_file", metavar="FILE", help="training rows: CSV, TSV, JSON or Parquet")
    add("--validation_file", metavar="FILE", help="rows to compare methods on (default: a fifth of the training rows)")
    add("--test_file", metavar="FILE", help="rows whose score is shown once, at the end")
    add("--dataset_name", metavar="DATASET", help="dataset id or folder, instead of files")
    add("--dataset_config_name", metavar="NAME", help="configuration of the dataset")
    add("--validation_split_name", metavar="SPLIT", help="split to compare methods on (default: validation, if any)")
    add("--test_split_name", metavar="SPLIT", help="split whose score is shown once, at the end")
    text = "one text column, a pair, or three or more to join"
    add("--text_column_names", metavar="COLUMN[,COLUMN]", help=text)
    add("--image_column_name", metavar="COLUMN", help="the column of images")
    add("--label_column_name", metavar="COLUMN", help="the column of labels (default: label or labels)")
    add("--max_train_samples", type=whole_number(1), metavar="N", help="use the first N training rows")
    add("--max_seq_length", type=whole_number(1), metavar="N", help="truncate each text to N tokens (default: 64)")
    add("--image_size", type=whole_number(8, 4096), metavar="N", help="make images N x N pixels (default: 64 at most)")
    model = "model id or folder; for images an architecture, for tables hidden or linear (default: a small one)"
    add("--model_name_or_path", metavar="MODEL", help=model)

    add = parser.add_argument_group(
        "methods", "Flags of TrainingArguments, such as --bf16, apply to all."
    ).add_argument
    add("--losses", nargs="+", metavar="LOSS", help=f"losses, such as {EXAMPLES} (default: {' '.join(LOSSES)})")
    method = "a method: 'NAME:ARGUMENT=VALUE,…', with loss=LOSS among the arguments; or a YAML file of methods"
    add("--method", action="append", default=[], metavar="METHOD", help=method)
    add("--baseline", metavar="METHOD", help="method that the others are compared with (default: ce, always trained)")
    sweep = "try each value for every method and seed; the best validation score counts"
    add("--sweep", action="append", default=[], metavar="ARGUMENT=VALUE,…", help=sweep)
    epoch = "which evaluation counts: that of the last epoch, or the best on the validation rows"
    add("--epoch", choices=("last", "best"), default="last", help=epoch)

    add = parser.add_argument_group("comparison").add_argument
    margin = "smallest difference that matters, in points, which are hundredths of the score (default: 0.2)"
    add("--margin", type=float, default=0.2, metavar="POINTS", help=margin)
    add("--max_seeds", type=whole_number(2, MAX_SEED), default=20, metavar="N", help="stop after N seeds at most")
    add("--budget", metavar="TIME", help="such as 30m or 2h: begin no seed that would probably end later")
    add("--resample", action="store_true", help="divide training and validation rows anew for every seed")
    add("--json", action="store_true", help="print the verdict as JSON")
    add("--output_dir", default="comparison", metavar="FOLDER", help="folder of the study, or its URL")
    add("--retry_failed", action="store_true", help="repeat runs that failed")
    add("--overwrite", action="store_true", help="delete existing runs of the task first")
    add_execution(parser, ("local", "stacked", "ray"), "stacked for tables, else local")


def _run(args: argparse.Namespace) -> int:
    """Find out whether a loss or a training argument helps on your data, at the least cost.

    Trains all methods seed by seed. After each seed, every method is better, practically equal, worse, or not yet
    decided; stops as soon as every one is. The intervals stay valid although they are checked after every seed. The
    same command continues, also with a larger --max_seeds; flags of transformers.TrainingArguments are also accepted.
    """
    from hf_elmix.comparison.loop import rules_for, run_comparison, seconds_in

    budget = seconds_in(args.budget) if args.budget else math.inf
    check_execution(args)
    given = args.losses or ([] if args.method else LOSSES)
    typed = study_training_arguments(args.rest, PROG, {}, given, args.parser.flags)
    candidates = parse_sweeps(args.sweep, typed)
    methods, rules = rules_for(parse_methods(given, args.method, candidates), args.baseline, args.margin)
    task, usual = _task(args, compiled=bool(typed.get("torch_compile")))
    # Again, since some arguments have no effect with the optimizer of tables.
    typed = study_training_arguments(args.rest, PROG, usual, given)
    typed |= precision_arguments(args, typed)
    candidates = parse_sweeps(args.sweep, typed, usual)
    methods, _ = rules_for(parse_methods(given, args.method, candidates, usual), args.baseline, args.margin)
    from hf_elmix.study.runner import check_study
    from hf_elmix.study.spec import Study
    from hf_elmix.study.store import Store

    study, store = Study((task,), tuple(methods), (0,), {**usual, **typed}), Store(args.output_dir)
    _say(_training(study))
    options = _execution(study, args)
    check_study(study, store)
    with cluster_of(args):
        found = run_comparison(
            study,
            store,
            rules,
            max_seeds=args.max_seeds,
            budget=budget,
            show=lambda _, line: _say(line),
            retry_failed=args.retry_failed,
            overwrite=args.overwrite,
            command=args.typed,
            **options,
        )
    _print_verdict(found, args)
    return EXIT_FAILED if found.stopped == "failed" else 0


def _task(args: argparse.Namespace, compiled: bool) -> tuple[Task, dict[str, Any]]:
    """The task that the data flags describe, and the usual training arguments for such data."""
    from hf_elmix.columns import IMAGES, TABLE, TEXT, columns_of, find_label
    from hf_elmix.comparison.split import named_splits

    named = Path(args.dataset_config_name or args.dataset_name or args.train_file or "").expanduser().resolve().stem
    rows = _rows(args)
    if args.test_file and args.test_split_name:
        raise UsageError("--test_file and --test_split_name both name the test rows. Leave one of them out.")
    test = "test" if args.test_file else args.test_split_name
    rows = named_splits(rows, named, args.validation_split_name, test, args.max_train_samples)
    options = {
        "origin": {"dataset": args.dataset_name or args.train_file, "max_train_samples": args.max_train_samples},
        **{"label_column": args.label_column_name, "epoch": args.epoch, "resample": args.resample},
    }
    kind = TEXT
    if not args.text_column_names:
        kind = columns_of(rows["train"], find_label(rows["train"], args.label_column_name, named)).kind
    _check_kind(args, named, kind)
    if kind == TABLE:
        from hf_elmix.tables.comparison import ARGUMENTS as usual
        from hf_elmix.tables.comparison import comparison_task
    elif kind == IMAGES:
        from hf_elmix.images.comparison import ARGUMENTS as usual
        from hf_elmix.images.comparison import comparison_task

        options |= {"image_column": args.image_column_name, "size": args.image_size}
    else:
        from hf_elmix.text.comparison import comparison_task, usual_arguments

        usual = usual_arguments(args.model_name_or_path)

        options |= {"text_columns": args.text_column_names, "max_length": args.max_seq_length, "compiled": compiled}
    task, about = comparison_task(rows, named, args.model_name_or_path, **options)
    _say(about)
    return task, usual


def _check_kind(args: argparse.Namespace, name: str, kind: str) -> None:
    """Refuse flags that have no effect on such rows, and choose how runs are trained where no flag does."""
    from hf_elmix.columns import IMAGES, TABLE, TEXT

    for flag, wanted in {"max_seq_length": TEXT, "image_size": IMAGES, "image_column_name": IMAGES}.items():
        if getattr(args, flag) and kind != wanted:
            raise UsageError(f"--{flag} has no effect here: {name} is {kind}. Leave it out.")
    if args.executor == "stacked" and kind == IMAGES:
        raise UsageError(f"--executor stacked takes tables and text, but {name} is {kind}. Leave it out.")
    args.executor = args.executor or ("stacked" if kind == TABLE else "local")


def _rows(args: argparse.Namespace) -> DatasetDict:
    """All rows that the data flags name."""
    files = {"train": args.train_file, "validation": args.validation_file, "test": args.test_file}
    given = {split: path for split, path in files.items() if path is not None}
    if bool(given) == bool(args.dataset_name) or (given and not args.train_file):
        raise UsageError("Expected --train_file or --dataset_name. Type one, such as --train_file mine.csv.")
    if given and args.dataset_config_name:
        raise UsageError("--dataset_config_name needs --dataset_name: files have no configurations. Leave it out.")
    inputs = {f"{split}_file": path for split, path in given.items()}
    inputs |= {name: value for name in ("dataset_name", "model_name_or_path") if (value := getattr(args, name))}
    check_inputs(args.output_dir, **inputs)
    from hf_elmix.text.files import read_files
    from hf_elmix.text.rows import read_dataset

    return read_files(given) if given else read_dataset(args.dataset_name, args.dataset_config_name)


def _training(study: Study) -> str:
    """The training arguments that the methods share, in one line, and how to try others."""
    swept = [name for override in study.methods[0].sweep[:1] for name in override]
    shared = ", ".join(f"{name} {value}" for name, value in study.arguments.items() if name not in swept)
    rate = study.arguments["learning_rate"]
    hint = f"; --sweep learning_rate={rate / 3:.1g},{rate:g},{rate * 3:.1g} tries others, in every method"
    return f"Training: {shared}{hint * ('learning_rate' not in swept)}"


def _execution(study: Study, args: argparse.Namespace) -> dict[str, Any]:
    """The options of `run_grid` that say how runs are trained."""
    options: dict[str, Any] = {"executor": executor_of(args, study)}
    if args.executor == "stacked":
        from hf_elmix.study.executors.stacked import check_stackable, run_stack

        check_stackable(study)
        options |= {"run": run_stack, "sharing": False}
    return options


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


def _print_verdict(found: Comparison, args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps(found.to_dict(), indent=2))
        return
    from rich.console import Console

    from hf_elmix.analysis.numbers import counted

    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200).print(found)
    ends = {
        "decided": "nothing is left to decide.",
        "no_scores": f"what is not decided has no scores; elmix status {args.output_dir} says why.",
        "max_seeds": f"--max_seeds {args.max_seeds} is reached; a larger one continues.",
        "budget": f"--budget {args.budget} is used up; the same command continues.",
        "failed": f"a run failed; elmix status {args.output_dir} says why, and --retry_failed repeats it.",
    }
    print(f"Stopped after {counted(found.seeds, 'seed')}: {ends[found.stopped]}")
    print(f"Figures and tables: elmix report {args.output_dir}")


COMMAND = Command(_run, _add_arguments, add_training_flags, interrupted=INTERRUPTED)
