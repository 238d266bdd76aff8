"""``elmix study reviews``: the paper's study of LSTMs, on its reviews or other texts with classes."""

from __future__ import annotations

import argparse

from hf_elmix.cli.base import Command, whole_number
from hf_elmix.cli.study import (
    INTERRUPTED,
    add_arguments,
    add_training_flags,
    check_inputs,
    losses_and_arguments,
    run_study,
)
from hf_elmix.reviews import protocol

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("reviews").add_argument
    data = (
        "CSV, TSV, JSON or Parquet file, or dataset id or folder; without validation and test splits, both are drawn"
    )
    add("--data", required=True, metavar="FILE_OR_DATASET", help=data)
    add("--dataset_config_name", metavar="NAME", help="configuration of the dataset")
    text, label = protocol.TEXT_COLUMN, protocol.LABEL_COLUMN
    add("--text_column_name", default=text, metavar="COLUMN", help=f"the column of texts (default: {text})")
    add("--label_column_name", default=label, metavar="COLUMN", help=f"the column of classes (default: {label})")
    length = f"read the first N words of a review (default: {protocol.MAX_LENGTH})"
    add("--max_seq_length", type=whole_number(1), default=protocol.MAX_LENGTH, metavar="N", help=length)
    names = list(protocol.ARCHITECTURES)
    models = f"LSTMs, layers x width: {', '.join(names)} (default: all)"
    add("--models", nargs="+", choices=names, default=names, metavar="MODEL", help=models)
    add_arguments(parser, seeds=protocol.SEEDS, losses=protocol.LOSSES)


def _run(args: argparse.Namespace) -> int:
    """Compare losses on reviews, with the paper's five LSTM classifiers.

    Predicts the class of a text, by default the rating of a review in the Women's Clothing E-Commerce Reviews. The
    vocabulary is made of the words of the training rows. Each run is scored on the test rows at its best validation
    epoch. The same command continues a study that was stopped. Flags of transformers.TrainingArguments, such as
    --num_train_epochs, are also accepted.
    """
    losses, arguments = losses_and_arguments(args, "elmix study reviews", protocol.ARGUMENTS, protocol.LOSSES)
    check_inputs(args.output_dir, data=args.data)
    from hf_elmix.reviews.data import read_reviews
    from hf_elmix.reviews.study import reviews_study

    columns = {"text_column": args.text_column_name, "label_column": args.label_column_name}
    reviews = read_reviews(args.data, args.dataset_config_name, **columns, max_length=args.max_seq_length)
    return run_study(reviews_study(reviews, args.seeds, losses, args.models, arguments), args)


COMMAND = Command(_run, _add_arguments, add_training_flags, interrupted=INTERRUPTED)
