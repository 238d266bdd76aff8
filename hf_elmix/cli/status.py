"""``elmix status``: the state of every run of a study."""

from __future__ import annotations

import argparse
from collections import Counter

from hf_elmix.cli.base import Command

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", help="folder of the study, or its URL")


def _run(args: argparse.Namespace) -> int:
    """Show which runs of a study are done, running, failed, diverged or missing, and why.

    A run has diverged if its loss became NaN or infinite.
    """
    from rich.console import Console

    from hf_elmix.study.progress import SIGNS, grid_table
    from hf_elmix.study.status import status_of
    from hf_elmix.study.store import Store
    from hf_elmix.terminal import printable

    states = status_of(Store(args.runs))
    console = Console(highlight=False, markup=False)
    console.print(grid_table({key: state for key, (state, _) in states.items()}))
    counts = Counter(state for state, _ in states.values())
    print(", ".join(f"{SIGNS[state][0]} {count} {state}" for state, count in counts.items()))
    for key, (state, reason) in states.items():
        if state != "done":
            print(printable(f"{key}: {state}: {reason}"))
    return 0


COMMAND = Command(_run, _add_arguments)
