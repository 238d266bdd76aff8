"""The command line of any study: ``elmix-report scores.csv``, or a folder of records."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hf_elmix.errors import UsageError

__all__ = ["add_arguments", "main", "report"]

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

ABOUT = (
    "Did it help, by how much, how sure is that, and where? Makes a page of figures and tables from scores: a CSV (or "
    "Parquet) file with the columns experiment, method, score, and seed where experiments were repeated; or a folder "
    "of records. Larger scores are better; an empty one is a run that has none."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Make a report; a user's mistake ends in one line on standard error and exit code 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        parser = _Parser(prog="elmix-report", description=ABOUT)
        parser.add_argument("scores", help="CSV or Parquet file, or folder of records")
        add_arguments(parser)
        args = parser.parse_args(words)
        return report(args.scores, args, [shlex.join(["elmix-report", *words])])
    except UsageError as error:
        print(f"elmix-report: {error}", file=sys.stderr)
        return EXIT_USAGE
    except ModuleNotFoundError as error:
        print(f"elmix-report: {error}. It comes with: pip install 'hf-elmix[report]'", file=sys.stderr)
        return EXIT_USAGE
    except OSError as error:  # a disk that is full, a folder that is not ours: its own words say it
        print(f"elmix-report: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("\nelmix-report: stopped.", file=sys.stderr)
        return EXIT_INTERRUPTED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every report has."""
    parser.add_argument("--output_dir", help="folder of the report (default: report, beside or in what it is made of)")
    parser.add_argument("--baseline", metavar="METHOD", help="what is compared with (default: ce, else the first)")
    parser.add_argument("--title", help="heading of the page")


def report(
    source: str,
    args: argparse.Namespace,
    commands: Sequence[str] | Callable[[Any], Sequence[str]],
) -> int:
    """Write the report of a file of scores or a folder of records, and print what it says.

    Args:
        source: The file or folder.
        args: With the options of `add_arguments`.
        commands: What to type to make it again, or what tells it from the records.

    Raises:
        UsageError: (a ValueError) If there are no scores, or the source is no such file or folder.
    """
    from hf_elmix.analysis.report import PAGE, write_report
    from hf_elmix.analysis.results import StudyResults

    path = Path(source)
    is_table = path.is_file() and path.suffix in (".csv", ".parquet")
    runs_df, curves_df, records = _from_file(path) if is_table else _from_folder(source)
    results = StudyResults(runs_df, curves_df, baseline=args.baseline)
    folder = Path(args.output_dir or (path.parent if path.is_file() else path) / "report")
    typed = commands(records) if callable(commands) else commands
    print(write_report(results, folder, title=args.title or f"Report: {path.name}", commands=typed))
    print(f"Page, figures, tables and data: {folder / PAGE}")
    return 0


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See {self.prog} --help.")


def _from_file(path: Path) -> tuple[Any, Any, list[Any]]:
    from hf_elmix.analysis.tables import read_scores

    return read_scores(path), None, []


def _from_folder(source: str) -> tuple[Any, Any, list[Any]]:
    from hf_elmix.analysis.tables import curves_table, expected_runs, runs_table
    from hf_elmix.study.store import Store

    if not Path(source).exists():
        raise UsageError(f"Expected a CSV file of scores or a folder of runs, but there is no {source!r}.")
    if Path(source).is_file():
        raise UsageError(
            f"Expected a .csv or .parquet file, or a folder of runs, but {source!r} is a file of another kind."
        )
    store = Store(source)
    records = list(store.records())
    if not records:
        raise UsageError(
            f"Expected a folder of runs, but {source!r} holds no record. Name the --output_dir of a study."
        )
    return runs_table(records, expected_runs(_declaration(store))), curves_table(records), records


def _declaration(store: Any) -> dict[str, Any]:
    """What was asked for, where the study says so: the runs that are missing are those of it without a record."""
    path = Path(store.folder, "study.json")
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise UsageError(
            f"{path} is no declaration of a study ({error}). Start the study again to renew it."
        ) from None


if __name__ == "__main__":
    sys.exit(main())
