"""The arguments of commands that look at a trained classifier: a run or a model, and rows for it."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING

from hf_elmix.cli.base import whole_number

if TYPE_CHECKING:
    from hf_elmix.text.checkpoint import Checkpoint

__all__ = ["add_rows", "checkpoint_of"]


def add_rows(parser: argparse.ArgumentParser, split: str, samples: int | None = None) -> None:
    """Add the arguments.

    Args:
        parser: Parser of the command.
        split: The split that is read by default, in words.
        samples: Number of rows that are used by default; None for all.
    """
    parser.add_argument("run", help="folder of a run whose model was kept; or a model id or folder, with rows for it")
    group = parser.add_argument_group("rows", "By default, the rows of the run. A model needs rows.")
    add = group.add_argument
    add("--task_name", metavar="TASK", help="a GLUE task")
    add("--dataset_name", metavar="DATASET", help="dataset id or folder")
    add("--dataset_config_name", metavar="NAME", help="configuration of the dataset")
    add("--file", metavar="FILE", help="CSV, TSV, JSON or Parquet file with rows")
    add("--split", metavar="SPLIT", help=f"split of the dataset (default: {split})")
    add("--text_column_names", metavar="COLUMN[,COLUMN]", help="the text column, or both columns of a text pair")
    add("--label_column_name", metavar="COLUMN", help="the column with the labels")
    add(
        "--max_seq_length", type=whole_number(1), metavar="N", help="cut each row to N tokens (default: as in the run)"
    )
    add("--max_samples", type=int, default=samples, metavar="N", help="use the first N rows")
    add("--batch_size", type=whole_number(1), default=32, metavar="N", help="rows per batch")


def checkpoint_of(args: argparse.Namespace) -> Checkpoint:
    """Load the classifier and the rows.

    Args:
        args: With the arguments of `add_rows`.

    Raises:
        UsageError: If model or rows cannot be used.
    """
    from hf_elmix.text.checkpoint import Rows, open_checkpoint

    rows = Rows(**{field.name: getattr(args, field.name) for field in fields(Rows)})
    return open_checkpoint(args.run, rows, batch_size=args.batch_size)
