"""``elmix report``: a page of figures and tables from a study or a file of scores."""

from __future__ import annotations

import argparse
import gc
from pathlib import Path
from typing import TYPE_CHECKING

from hf_elmix.cli.base import Command, check_folder
from hf_elmix.errors import UsageError

if TYPE_CHECKING:
    from hf_elmix.study.store import Store

__all__ = ["COMMAND", "report"]


def report(
    source: str, command: str, *, output_dir: str | None = None, baseline: str | None = None, title: str | None = None
) -> int:
    """Write the report of a study or a file of scores, print its findings and return the exit code, 0.

    Args:
        source: Folder of the study (or its URL), or CSV or Parquet file.
        command: The command line that makes the report.
        output_dir: Folder of the report; by default ``report``, inside the study's folder, next to the file, or in the
            current folder for a URL.
        baseline: The method that the others are compared with, by name or label; by default ``ce``, else the first.
        title: Heading of the page; by default the numbers of methods and tasks, and the name of the source.

    Raises:
        UsageError: If there are no scores, or the source is neither a study nor a file of scores.
    """
    from hf_elmix.analysis.frames import read_scores
    from hf_elmix.analysis.numbers import counted
    from hf_elmix.analysis.report import PAGE, write_report
    from hf_elmix.analysis.results import StudyResults, read_study
    from hf_elmix.terminal import printable

    path = Path(source)
    is_table = path.is_file() and path.suffix in (".csv", ".parquet")
    store = None if is_table else _store(source)
    results = StudyResults(read_scores(path), baseline=baseline) if store is None else read_study(store, baseline)
    gc.freeze()  # skip imports and records; saves about 1/7 of the run time
    commands = [] if store is None else store.declaration()["commands"]
    parent = path if path.is_dir() else path.parent if path.is_file() else Path()
    folder = Path(output_dir or parent / "report")
    if output_dir is None and folder.is_symlink():  # in a folder that somebody else may have made
        raise UsageError(f"Expected a folder, but {str(folder)!r} is a link. Remove it, or type --output_dir.")
    check_folder(output_dir or str(folder))
    if title is None:
        methods, tasks = counted(len(results.methods), "method"), counted(results.runs_df["task"].nunique(), "task")
        title = f"{'Comparison of ' if results.others else ''}{methods} on {tasks} ({path.resolve().name})"
    print(write_report(results, folder, title=title, commands=list(dict.fromkeys([*commands, command]))))
    print(printable(f"Page, figures, tables and data: {folder / PAGE}"))
    print(f"Open it: {(folder / PAGE).resolve().as_uri()}")
    return 0


def _store(source: str) -> Store:
    """The folder of a study, which must have records."""
    from hf_elmix.study.store import Store

    if Path(source).is_file():
        raise UsageError(
            f"Expected a study's folder or a .csv or .parquet file, but {source!r} is a file of another kind."
        )
    store = Store(source)
    if not store.folder.exists():
        raise UsageError(f"Expected a file of scores or the folder of a study, but {source!r} does not exist.")
    return store


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="SOURCE", help="folder of the study (or its URL), or CSV or Parquet file of scores")
    default = "default: report/ next to the file or inside the study folder; ./report for a URL"
    add("--output_dir", metavar="FOLDER", help=f"folder of the report ({default})")
    baseline = "method that the others are compared with, such as ce or 'F = 0-0.5' (default: ce, else the first)"
    add("--baseline", metavar="METHOD", help=baseline)
    add("--title", help="heading of the page (default: numbers of methods and tasks, and the name of SOURCE)")


def _run(args: argparse.Namespace) -> int:
    """Write a page of figures and tables from a study or a file of scores.

    The report says which method is better, by how much, with what confidence, and on which tasks. A file has the
    columns task, method and score, and seed if runs were repeated. Larger scores are better; leave the score empty for
    a run that has none.
    """
    return report(args.source, args.typed, output_dir=args.output_dir, baseline=args.baseline, title=args.title)


COMMAND = Command(_run, _add_arguments, extra="report")
