"""``elmix cohorts``: how predictions change during training."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from hf_elmix.cli.base import Command
from hf_elmix.cli.diagnostics import add_out, save_picture
from hf_elmix.errors import UsageError
from hf_elmix.predictions.records import THRESHOLD

if TYPE_CHECKING:
    from hf_elmix.analysis.formats import Table
    from hf_elmix.predictions.records import Predictions

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", help="folder of a run or a training, or the file that CohortCallback wrote")
    near = "an incorrect row is near if the probability of its true class is above P, else far"
    add("--threshold", type=float, default=THRESHOLD, metavar="P", help=near)
    start = "first epoch of the Sankey diagram (default: 7/9 of the training, as in the paper)"
    add("--start", type=float, metavar="EPOCH", help=start)
    add_out(parser)


def _run(args: argparse.Namespace) -> int:
    """Show how predictions change during training.

    Of the rows that are incorrect at some epoch, near the decision boundary or far from it, how many end up correct?
    """
    from hf_elmix.analysis.formats import to_markdown
    from hf_elmix.diagnostics.cohort_plots import plot_ridgeline, plot_sankey
    from hf_elmix.predictions.cohorts import start_of
    from hf_elmix.predictions.records import read_predictions

    if not 0 < args.threshold < 1:
        raise UsageError(f"Expected --threshold to be between 0 and 1, but got {args.threshold}.")
    drawings: list[Callable[..., Any]] = []
    sets = read_predictions(args.run)
    for seen in sets.values():
        start_of(seen, args.start)  # refuses one that does not exist
    for name, seen in sets.items():
        print(to_markdown(_table(name, seen, args.threshold)))
        drawings.append(partial(plot_sankey, seen, threshold=args.threshold, start=args.start))
        drawings.append(partial(plot_ridgeline, seen, threshold=args.threshold))
    save_picture(args.out, drawings)
    return 0


def _table(name: str, seen: Predictions, threshold: float) -> Table:
    """Make the table of how many rows of each cohort are correct in the end, for each recorded epoch."""
    from hf_elmix.analysis.formats import Table
    from hf_elmix.predictions.cohorts import COHORTS, share_table, transition_table

    table = transition_table(seen, threshold)
    shares = share_table(table)

    def cell(step: int, cohort: str) -> str:
        counts = f"{table[f'{cohort}_end'][step]} of {table[cohort][step]}"
        if not table[cohort][step]:
            return counts
        share, low, high = (100 * shares[f"{cohort}_{column}"][step] for column in ("share", "low", "high"))
        return f"{counts}: {share:.2f} % ({low:.2f} to {high:.2f})"

    rows = [[f"{table.epoch[step]:g}", *(cell(step, cohort) for cohort in COHORTS)] for step in table.index]
    caption = (
        f"{len(seen.labels)} rows{f' of {name}' if name else ''}, grouped by their prediction at each epoch: how many "
        f"of each group are correct at epoch {seen.epochs[-1]:g}, with 95 % Wilson intervals. An incorrect row is "
        f"near if the probability of its true class is above {threshold:g}, else far."
    )
    return Table("cohorts", "Cohorts", caption, ["epoch", *COHORTS], rows)


COMMAND = Command(_run, _add_arguments)
