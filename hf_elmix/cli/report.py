"""The command line of any study: ``elmix-report scores.csv``, or a folder of records."""

from __future__ import annotations

import argparse
import gc
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hf_elmix.cli.base import OneLineParser, exit_code
from hf_elmix.errors import UsageError

__all__ = ["add_arguments", "main", "report"]

ABOUT = (
    "Did it help, by how much, how sure is that, and where? Makes a page of figures and tables from scores: a CSV (or "
    "Parquet) file with the columns experiment, method, score, and seed where experiments were repeated; or a folder "
    "of records. Larger scores are better; an empty one is a run that has none."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Make a report; a user's mistake ends in one line on standard error and exit code 2.

    Args:
        argv: Words of the command line; left out, those of this process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_code("elmix-report", lambda: _run_command(words), extra="report")


def _run_command(words: list[str]) -> int:
    parser = OneLineParser(prog="elmix-report", description=ABOUT)
    parser.add_argument("scores", help="CSV or Parquet file, or folder of records (or its URL)")
    add_arguments(parser)
    args = parser.parse_args(words)
    return report(args.scores, args, [shlex.join(["elmix-report", *words])])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every report has.

    Args:
        parser: Where they are added.
    """
    parser.add_argument(
        "--output_dir",
        help="folder of the report (default: report, beside a file, in a folder, here for a URL)",
    )
    parser.add_argument("--baseline", metavar="METHOD", help="what is compared with (default: ce, else the first)")
    parser.add_argument("--title", help="heading of the page")


def report(
    source: str,
    args: argparse.Namespace,
    commands: Sequence[str],
) -> int:
    """Write the report of a file of scores or a folder of records, and print what it says.

    Args:
        source: The file or folder.
        args: With the options of `add_arguments`.
        commands: The command that makes the report.

    Returns:
        The exit code, 0.

    Raises:
        UsageError: If there are no scores, or the source is no such file or folder.
    """
    from hf_elmix.analysis.report import PAGE, write_report
    from hf_elmix.analysis.results import StudyResults

    path = Path(source)
    is_table = path.is_file() and path.suffix in (".csv", ".parquet")
    runs_df, curves_df, made_by, predictions = _from_file(path) if is_table else _from_folder(source)
    gc.freeze()  # what was imported and read stays: looking through it for garbage took a seventh of the time
    results = StudyResults(runs_df, curves_df, baseline=args.baseline, predictions=predictions)
    folder = Path(args.output_dir or _place(path))
    print(write_report(results, folder, title=args.title or f"Report: {path.name}", commands=[*made_by, *commands]))
    print(f"Page, figures, tables and data: {folder / PAGE}\nOpen it: {(folder / PAGE).resolve().as_uri()}")
    return 0


def _place(path: Path) -> Path:
    """Where a report goes if nobody says: beside a file, in a folder, and here for what is at a URL."""
    if path.is_dir():
        return path / "report"
    return path.parent / "report" if path.is_file() else Path("report")


def _from_file(path: Path) -> tuple[Any, Any, list[Any], dict[Any, Any]]:
    from hf_elmix.analysis.frames import read_scores

    return read_scores(path), None, [], {}


def _from_folder(source: str) -> tuple[Any, Any, list[Any], dict[Any, Any]]:
    from hf_elmix.analysis.frames import curves_table, runs_table
    from hf_elmix.study.select import choose_runs
    from hf_elmix.study.store import Store

    if Path(source).is_file():
        raise UsageError(
            f"Expected a .csv or .parquet file, or a folder of runs, but {source!r} is a file of another kind."
        )
    store = Store(source)
    if not store.folder.exists():
        raise UsageError(f"Expected a CSV file of scores or a folder of runs, but there is no {source!r}.")
    records = list(store.records())
    if not records:
        raise UsageError(
            f"Expected a folder of runs, but {source!r} holds no record. Name the --output_dir of a study."
        )
    runs = {key: record.key for key, record in choose_runs(records, store.asked()).items() if record is not None}
    there = set(store.with_predictions(runs.values()))
    readers = {key: partial(store.read_predictions, run) for key, run in runs.items() if run in there}
    commands = store.declaration()["commands"]
    return runs_table(records, store.asked()), curves_table(records, store.asked()), commands, readers


if __name__ == "__main__":
    sys.exit(main())
