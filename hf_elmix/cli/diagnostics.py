"""Arguments of the commands that examine trained models, and saving their pictures."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_elmix.cli.base import whole_number
from hf_elmix.text.tasks import MAX_LENGTH

if TYPE_CHECKING:
    from hf_elmix.text.checkpoint import Checkpoint

__all__ = ["add_out", "add_rows", "checkpoint_of", "save_picture"]

FORMATS = (".png", ".svg", ".pdf")


def add_rows(parser: argparse.ArgumentParser, split: str, samples: int | None = None) -> None:
    """Add the arguments that choose a classifier and rows: by default `samples` (None for all) of a split."""
    run = "run folder (trained with --keep), or a model id or path; for a model, also give --file or --dataset_name"
    parser.add_argument("run", help=run)
    group = parser.add_argument_group("rows", "Default: the rows of the run.")
    add = group.add_argument
    add("--dataset_name", metavar="DATASET", help="dataset id or folder")
    add("--dataset_config_name", metavar="NAME", help="configuration of the dataset")
    add("--file", metavar="FILE", help="CSV, TSV, JSON or Parquet file with rows")
    add("--split", metavar="SPLIT", help=f"split of the dataset (default: {split})")
    columns = "one text column, a pair, or three or more to join"
    add("--text_column_names", metavar="COLUMN[,COLUMN]", help=columns)
    add("--text_column_delimiter", metavar="TEXT", help="join all these columns, with this text between them")
    add("--label_column_name", metavar="COLUMN", help="the column with the labels")
    length = f"truncate each row to N tokens (default: as in the run, or {MAX_LENGTH})"
    add("--max_seq_length", type=whole_number(1), metavar="N", help=length)
    add("--max_samples", type=int, default=samples, metavar="N", help="use the first N rows")
    add("--batch_size", type=whole_number(1), default=32, metavar="N", help="rows per batch")


def checkpoint_of(args: argparse.Namespace) -> Checkpoint:
    """Load the classifier and the rows that the arguments of `add_rows` choose."""
    from hf_elmix.text.checkpoint import Rows, open_checkpoint

    rows = Rows(**{field.name: getattr(args, field.name) for field in fields(Rows)})
    return open_checkpoint(args.run, rows, batch_size=args.batch_size)


def add_out(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add the flag ``--out``; without a default, no figure is drawn unless the flag is given."""
    text = f"write the figure to this file ({', '.join(FORMATS[:-1])} or {FORMATS[-1]})"
    parser.add_argument("--out", type=_picture, default=default, metavar="FILE", help=text)


def save_picture(out: str | None, drawings: Sequence[Callable[..., Any]]) -> None:
    """Save a picture of drawings side by side, atomically; None draws nothing.

    Args:
        out: The file.
        drawings: Functions that draw on the axis ``ax`` and return it.
    """
    if out is None:
        return
    from matplotlib.figure import Figure
    from upath import UPath

    from hf_elmix.study.files import write_bytes

    figure = Figure(layout="constrained")
    places = figure.subplots(ncols=len(drawings), squeeze=False).flat
    legends = [draw(ax=ax).get_legend() for draw, ax in zip(drawings, places, strict=True)]
    lines = max(len(legend.texts) if legend else 0 for legend in legends)
    figure.set_size_inches(5.4 * len(drawings), 4.0 + 0.24 * lines)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=160, format=Path(out).suffix[1:].lower())
    write_bytes(UPath(out), picture.getvalue())
    print(f"Figure: {out}")


def _picture(out: str) -> str:
    if Path(out).suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"expected a file that ends in {', '.join(FORMATS)}, but got {out!r}")
    if not Path(out).resolve().parent.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file in a folder that exists, but got {out!r}")
    return out
