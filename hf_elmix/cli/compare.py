"""``elmix compare``: does a loss, or any training argument, help on these data?"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_elmix.cli.base import EXIT_FAILED, Command, whole_number
from hf_elmix.cli.study import (
    INTERRUPTED,
    add_execution,
    add_training_flags,
    check_execution,
    check_inputs,
    executor_of,
    study_training_arguments,
)
from hf_elmix.errors import UsageError
from hf_elmix.losses.registry import EXAMPLES
from hf_elmix.study.spec import MAX_SEED
from hf_elmix.terminal import printable

if TYPE_CHECKING:
    from hf_elmix.comparison.result import Comparison
    from hf_elmix.study.spec import Method, Task

__all__ = ["COMMAND", "parse_methods"]

PROG = "elmix compare"
LOSSES = ("ce", "0-0.5")
MODEL = "sentence-transformers/paraphrase-MiniLM-L3-v2"  # 17 M parameters: a run on some thousand rows takes minutes

# For small encoders; other models may need others. Everything else is the Trainer's default.
ARGUMENTS: dict[str, Any] = {
    "learning_rate": 1e-4,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("data", "Files, or a dataset on the Hub or in a folder.").add_argument
    add("--train_file", metavar="FILE", help="training rows: CSV, TSV, JSON or Parquet")
    add("--validation_file", metavar="FILE", help="rows to compare methods on (default: a fifth of the training rows)")
    add("--test_file", metavar="FILE", help="rows whose score is shown once, at the end")
    add("--dataset_name", metavar="DATASET", help="dataset id or folder, instead of files")
    add("--dataset_config_name", metavar="NAME", help="configuration of the dataset")
    add("--validation_split_name", metavar="SPLIT", help="split to compare methods on (default: validation, if any)")
    add("--test_split_name", metavar="SPLIT", help="split whose score is shown once, at the end")
    add("--text_column_names", metavar="COLUMN[,COLUMN]", help="the text column, the two of a pair, or three to join")
    add("--label_column_name", metavar="COLUMN", help="the column of labels")
    add("--max_train_samples", type=whole_number(1), metavar="N", help="use the first N training rows")
    add("--max_seq_length", type=whole_number(1), default=64, metavar="N", help="truncate each row to N tokens")
    add("--model_name_or_path", default=MODEL, metavar="MODEL", help="model id or folder")

    add = parser.add_argument_group(
        "methods", "Flags of TrainingArguments, such as --bf16, apply to all."
    ).add_argument
    add("--losses", nargs="+", metavar="LOSS", help=f"losses, such as {EXAMPLES} (default: {' '.join(LOSSES)})")
    method = "a method: 'NAME:ARGUMENT=VALUE,…', with loss=LOSS among the arguments; or a YAML file of methods"
    add("--method", action="append", default=[], metavar="METHOD", help=method)
    add("--baseline", metavar="METHOD", help="method that the others are compared with (default: ce, always trained)")
    sweep = "try each value, in every method and for every seed; the best on the validation rows counts"
    add("--sweep", action="append", default=[], metavar="ARGUMENT=VALUE,…", help=sweep)
    epoch = "which evaluation counts: that of the last epoch, or the best on the validation rows"
    add("--epoch", choices=("last", "best"), default="last", help=epoch)

    add = parser.add_argument_group("comparison").add_argument
    add("--margin", type=float, default=0.2, metavar="POINTS", help="differences below it do not matter, in points")
    add("--max_seeds", type=whole_number(2, MAX_SEED), default=20, metavar="N", help="stop after N seeds at most")
    add("--budget", metavar="TIME", help="such as 30m or 2h: begin no seed that would probably end later")
    add("--resample", action="store_true", help="divide training and validation rows anew for every seed")
    add("--json", action="store_true", help="print the verdict as JSON")
    add("--output_dir", default="comparison", metavar="FOLDER", help="folder of the study, or its URL")
    add("--retry_failed", action="store_true", help="repeat runs that failed")
    add("--overwrite", action="store_true", help="delete existing runs of the task first")
    add_execution(parser)


def _run(args: argparse.Namespace) -> int:
    """Find out whether a loss or a training argument helps on your data, at the least cost.

    Trains every method with one seed after the other, and looks after each: better, practically equal, worse, or not
    yet known. Stops as soon as every method is decided. The intervals hold although they are looked at after every
    seed. The same command continues, also with a larger --max_seeds; flags of transformers.TrainingArguments are also
    accepted.
    """
    from hf_elmix.comparison.loop import rules_for, run_comparison, seconds_in

    budget = seconds_in(args.budget) if args.budget else math.inf
    check_execution(args)
    given = args.losses or ([] if args.method else LOSSES)
    typed = study_training_arguments(args.rest, PROG, ARGUMENTS, given, args.parser.flags)
    for name in (text.partition("=")[0].strip() for text in args.sweep):
        if name in typed:
            raise UsageError(f"Expected --{name} or --sweep {name}=…, but got both. Leave one out.")
    arguments = {**ARGUMENTS, **typed}
    methods, rules = rules_for(parse_methods(given, args.method, args.sweep), args.baseline, args.margin)
    task = _task(args)
    from hf_elmix.study.spec import Study
    from hf_elmix.study.store import Store

    study = Study((task,), tuple(methods), (0,), arguments)
    found = run_comparison(
        study,
        Store(args.output_dir),
        rules,
        max_seeds=args.max_seeds,
        budget=budget,
        show=lambda _, line: _say(line),
        executor=executor_of(args),
        retry_failed=args.retry_failed,
        overwrite=args.overwrite,
        command=args.typed,
    )
    _print_verdict(found, args)
    return EXIT_FAILED if found.stopped == "failed" else 0


def parse_methods(losses: Iterable[str], methods: Iterable[str], sweeps: Iterable[str]) -> list[Method]:
    """The methods that a command line names.

    Args:
        losses: Losses, each a method of the same name; sets such as ``table4`` are expanded.
        methods: ``name:argument=value,…`` or paths of YAML files.
        sweeps: ``argument=value,value``; every combination is a candidate of every method.

    Raises:
        UsageError: If a loss or an argument does not exist, or a value is not valid.
    """
    from hf_elmix.losses.registry import expand_losses
    from hf_elmix.study.spec import Method

    axes = [_sweep(text) for text in sweeps]
    candidates = tuple(dict(pairs) for pairs in itertools.product(*axes)) if axes else ()
    described = [(name, {"loss": name}) for name in expand_losses(losses)]
    for text in methods:
        described += _in_file(text) if Path(text).suffix in (".yaml", ".yml") else [_in_words(text)]
    return [Method(name, _typed(values), values["loss"], candidates) for name, values in described]


def _sweep(text: str) -> list[tuple[str, Any]]:
    """The values of an argument, from ``learning_rate=1e-5,2e-5``."""
    name, equals, values = text.partition("=")
    if name.strip() == "loss":
        raise UsageError(f"Expected --sweep with a training argument, but got {text!r}. Type --losses instead.")
    if not equals or not all(values.split(",")):
        raise UsageError(f"Expected --sweep like learning_rate=1e-5,2e-5, but got {text!r}.")
    return [(name, _typed({name: value})[name]) for value in dict.fromkeys(values.split(","))]


def _in_words(text: str) -> tuple[str, dict[str, str]]:
    """Name and arguments of a method, from ``ls:loss=focal:gamma=2,alpha=0.25,label_smoothing_factor=0.1``.

    A part that names no training argument continues the loss before it, whose arguments have commas, too.
    """
    from dataclasses import fields

    from transformers import TrainingArguments

    name, colon, rest = text.partition(":")
    if not colon or not name.strip() or "=" not in rest:
        raise UsageError(f"Expected --method like 'wd:weight_decay=0.1', but got {text!r}.")
    known, values, last = {field.name for field in fields(TrainingArguments)} | {"loss"}, {"loss": "ce"}, ""
    given: set[str] = set()
    for part in rest.split(","):
        key, equals, value = part.partition("=")
        if last == "loss" and key.strip() not in known:
            values["loss"] += f",{part}"
        elif equals:
            last = key.strip()
            if last in given:
                raise UsageError(
                    f"Expected each argument once, but {last!r} is given twice in {text!r}. Leave one out."
                )
            given.add(last)
            values[last] = value
        else:
            raise UsageError(f"Expected --method like 'wd:weight_decay=0.1', but got {part!r} in {text!r}.")
    return name.strip(), values


def _in_file(path: str) -> list[tuple[str, dict[str, str]]]:
    """Names and arguments of methods, from a YAML file that maps each name to its arguments."""
    from hf_elmix.cli.argument_files import read_arguments

    methods = read_arguments(path)
    if not isinstance(methods, dict) or not all(isinstance(values, dict) for values in methods.values()):
        raise UsageError(f"Expected {path!r} to map each method to its arguments, as in 'wd: {{weight_decay: 0.1}}'.")
    texts = {
        str(name): {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
        for name, values in methods.items()
    }
    return [(name, {"loss": "ce", **values}) for name, values in texts.items()]


def _typed(values: Mapping[str, str]) -> dict[str, Any]:
    """Training arguments with values of their types, without the loss."""
    words = [word for name, value in values.items() if name != "loss" for word in (f"--{name}", value)]
    return study_training_arguments(words, PROG, ARGUMENTS)


def _task(args: argparse.Namespace) -> Task:
    """The task that the data flags describe."""
    files = {"train": args.train_file, "validation": args.validation_file, "test": args.test_file}
    given = {split: path for split, path in files.items() if path is not None}
    if bool(given) == bool(args.dataset_name) or (given and not args.train_file):
        raise UsageError("Expected --train_file or --dataset_name. Type one, such as --train_file mine.csv.")
    if given and args.dataset_config_name:
        raise UsageError("--dataset_config_name needs --dataset_name: files have no configurations. Leave it out.")
    inputs = {f"{split}_file": path for split, path in given.items()}
    inputs |= {"dataset_name": args.dataset_name} if args.dataset_name else {}
    check_inputs(args.output_dir, model_name_or_path=args.model_name_or_path, **inputs)
    from hf_elmix.text.comparison import comparison_task
    from hf_elmix.text.files import read_files
    from hf_elmix.text.rows import read_dataset

    named = Path(args.dataset_config_name or args.dataset_name or args.train_file)
    task, about = comparison_task(
        read_files(given) if given else read_dataset(args.dataset_name, args.dataset_config_name),
        named.expanduser().resolve().stem,
        args.model_name_or_path,
        origin={"dataset": args.dataset_name or args.train_file, "max_train_samples": args.max_train_samples},
        validation_split=args.validation_split_name,
        test_split="test" if args.test_file else args.test_split_name,
        max_train_samples=args.max_train_samples,
        text_columns=args.text_column_names,
        label_column=args.label_column_name,
        max_length=args.max_seq_length,
        epoch=args.epoch,
        resample=args.resample,
    )
    _say(about)
    return task


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
        "max_seeds": f"--max_seeds {args.max_seeds} is reached; a larger one continues.",
        "budget": f"--budget {args.budget} is used up; the same command continues.",
        "failed": f"a run failed; elmix status {args.output_dir} says why, and --retry_failed repeats it.",
    }
    print(f"Stopped after {counted(found.seeds, 'seed')}: {ends[found.stopped]}")
    print(f"Figures and tables: elmix report {args.output_dir}")


COMMAND = Command(_run, _add_arguments, add_training_flags, interrupted=INTERRUPTED)
