"""``elmix calibration``: whether predicted probabilities match observed frequencies."""

from __future__ import annotations

import argparse
from functools import partial

from hf_elmix.cli.base import Command, whole_number
from hf_elmix.cli.diagnostics import add_out, add_rows, checkpoint_of, save_picture

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bins", type=whole_number(1, 10_000), default=15, metavar="N", help="number of confidence bins"
    )
    add_out(parser)
    add_rows(parser, split="the evaluation split")


def _run(args: argparse.Namespace) -> int:
    """Compare predicted probabilities with observed frequencies.

    Prints calibration errors and proper scores of a classifier before and after temperature scaling; --out draws a
    reliability diagram.
    """
    from hf_elmix.analysis.formats import Table, to_markdown
    from hf_elmix.diagnostics.calibration import calibration_table, plot_reliability, temperature_scaled
    from hf_elmix.predictions.predict import predict

    checkpoint = checkpoint_of(args)
    seen = predict(checkpoint.model, checkpoint.loader)
    scaled = temperature_scaled(seen.logits, seen.labels)
    scores = calibration_table(seen.logits, seen.labels, bins=args.bins, scaled=scaled)
    caption = f"{checkpoint.about}. Temperatures are fitted on one half of the rows and evaluated on the other."
    rows = [
        [str(name), *(f"{value:.4f}" for value in row)] for name, row in zip(scores.index, scores.values, strict=True)
    ]
    header = ["", *(name.replace("_", " ") for name in scores)]
    print(to_markdown(Table("calibration", "Calibration", caption, header, rows)))
    diagrams = {
        name: (logits, seen.labels) for name, logits in zip(scores.index, (seen.logits, scaled[0]), strict=True)
    }
    save_picture(args.out, [partial(plot_reliability, diagrams, bins=args.bins)])
    return 0


COMMAND = Command(_run, _add_arguments)
