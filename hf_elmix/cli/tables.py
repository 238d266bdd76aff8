"""``elmix study tables``: the paper's study of tables, on any folder of them."""

from __future__ import annotations

import argparse

from hf_elmix.cli.base import Command
from hf_elmix.cli.methods import parse_sweeps
from hf_elmix.cli.study import (
    INTERRUPTED,
    add_arguments,
    add_training_flags,
    check_inputs,
    losses_and_arguments,
    run_study,
)
from hf_elmix.tables import protocol

__all__ = ["COMMAND"]

PROG = "elmix study tables"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("tables").add_argument
    data = "folder of .parquet or .csv files: a column 'label', numbers, and, optionally, a column 'split'"
    add("--data", required=True, metavar="FOLDER", help=data)
    add("--tables", nargs="+", default=[], metavar="NAME", help="only these tables, by file name without its ending")
    add("--models", nargs="+", choices=protocol.MODELS, default=protocol.MODELS, help="one study for each")
    add("--split_column_name", default="split", metavar="COLUMN", help="column of train, validation and test")
    scale = "scale each feature to mean 0 and standard deviation 1 over the training rows"
    add("--standardize", action="store_true", help=scale)
    sweep = "try each value, in every method; the best on the validation rows counts"
    rates = ",".join(map(str, protocol.LEARNING_RATES))
    add(
        "--sweep",
        action="append",
        default=[],
        metavar="ARGUMENT=VALUE,…",
        help=f"{sweep} (default: learning_rate={rates})",
    )
    add_arguments(parser, seeds=protocol.SEEDS, losses=protocol.LOSSES, executors=("stacked", "local", "ray"))


def _run(args: argparse.Namespace) -> int:
    """Compare losses on tables, with the paper's linear classifier and the one with a hidden layer.

    Each model is a study in a folder of its own, such as RUNS/linear. All runs of a table are trained as one batched
    model. The same command continues a study that was stopped. Flags of transformers.TrainingArguments, such as
    --num_train_epochs, are also accepted; --learning_rate replaces the choice among 0.01, 0.005 and 0.001.
    """
    defaults = {"learning_rate": max(protocol.LEARNING_RATES), **protocol.ARGUMENTS}
    losses, arguments = losses_and_arguments(args, PROG, defaults, protocol.LOSSES, args.models)
    sweep = parse_sweeps(args.sweep, arguments, protocol.ARGUMENTS, PROG)
    check_inputs(args.output_dir, data=args.data)
    from hf_elmix.tables.data import read_tables
    from hf_elmix.tables.study import tables_study

    tables = read_tables(args.data, args.tables, split_column=args.split_column_name, standardize=args.standardize)
    studies = {model: tables_study(tables, args.seeds, losses, model, arguments, sweep) for model in args.models}
    folder, codes = args.output_dir, []
    for model, study in studies.items():
        args.output_dir = f"{folder.rstrip('/')}/{model}"
        codes.append(run_study(study, args))
    return max(codes)


COMMAND = Command(_run, _add_arguments, add_training_flags, interrupted=INTERRUPTED)
