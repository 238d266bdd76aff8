"""``elmix gradients``: draw which samples a loss learns from."""

from __future__ import annotations

import argparse
from functools import partial

from hf_elmix.cli.base import Command, whole_number
from hf_elmix.cli.diagnostics import add_out, save_picture
from hf_elmix.losses.registry import EXAMPLES

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("loss").add_argument
    add("--mixing", nargs="+", default=[], metavar="MIXING", help="schedules of the mixed loss, such as 0-0.5 or ce")
    add("--losses", nargs="+", default=[], metavar="LOSS", help=f"any losses, such as {EXAMPLES}")
    add(
        "--classes",
        type=whole_number(2, 10_000),  # the memory grows with them
        default=2,
        metavar="C",
        help="number of classes; all but the true one share 1 - p evenly",
    )
    add_out(parser, "gradients.png")


def _run(args: argparse.Namespace) -> int:
    """Draw the gradient of losses against the probability of the true class.

    It shows which samples each loss learns from (Fig. 1 of the paper). By default: ce, el and 0-0.5.
    """
    from hf_elmix.diagnostics.gradients import plot_gradients
    from hf_elmix.losses.registry import expand_losses

    losses = [*args.mixing, *map(str, expand_losses(args.losses))] or ["ce", "el", "0-0.5"]
    save_picture(args.out, [partial(plot_gradients, losses, classes=args.classes)])
    return 0


COMMAND = Command(_run, _add_arguments)
