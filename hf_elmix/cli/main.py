"""The command line of the instruments: ``elmix gradients | cohorts | calibration | escape``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_elmix.cli.base import OneLineParser, exit_code
from hf_elmix.errors import UsageError
from hf_elmix.losses.registry import EXAMPLES
from hf_elmix.predictions.records import THRESHOLD
from hf_elmix.text.tasks import MAX_LENGTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hf_elmix.analysis.formats import Table
    from hf_elmix.predictions.records import Predictions
    from hf_elmix.text.checkpoint import Checkpoint

__all__ = ["main"]

PICTURES = (".png", ".svg", ".pdf")
STEPS = 30  # of Lanczos iterations


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake ends in one line on standard error and exit code 2."""
    return exit_code("elmix", lambda: _run_command(argv), extra="glue")


def _run_command(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    if args.out is not None:
        _check_picture(args.out)
    args.command(args)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="elmix", description="Instruments that show what training does.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_gradients(commands.add_parser("gradients", allow_abbrev=False, help="which samples a loss works on (Fig. 1)"))
    _add_cohorts(commands.add_parser("cohorts", allow_abbrev=False, help="which rows a training still changed"))
    _add_calibration(commands.add_parser("calibration", allow_abbrev=False, help="whether probabilities can be taken"))
    _add_escape(commands.add_parser("escape", allow_abbrev=False, help="Tr(H Sigma) of losses at a checkpoint"))
    return parser


def _add_out(
    parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], None], default: str | None
) -> None:
    parser.set_defaults(command=command)
    shown = "" if default is None else f" ({default})"
    parser.add_argument("--out", default=default, metavar="FILE", help=f"picture: {', '.join(PICTURES)}{shown}")


def _from(least: int, most: int | None = None) -> Callable[[str], int]:
    """A whole number in a range, as a type of argparse."""

    def number(text: str) -> int:
        if not text.removeprefix("-").isdigit() or int(text) < least or (most is not None and int(text) > most):
            end = "or more" if most is None else f"to {most}"
            raise argparse.ArgumentTypeError(f"expected a whole number, {least} {end}, but got {text!r}")
        return int(text)

    return number


def _add_gradients(parser: argparse.ArgumentParser) -> None:
    _add_out(parser, _gradients, "gradients.png")
    add = parser.add_argument
    add("--mixing", nargs="+", default=[], metavar="MIXING", help="schedules of the mixed loss, such as 0-0.5 or ce")
    add("--losses", nargs="+", default=[], metavar="LOSS", help=f"any losses, as in {EXAMPLES}")
    add("--classes", type=int, default=2, metavar="C", help="classes that share the rest of p evenly (%(default)s)")


def _add_cohorts(parser: argparse.ArgumentParser) -> None:
    _add_out(parser, _cohorts, None)
    add = parser.add_argument
    add("run", help="folder of a run or a training, or the file that CohortCallback left there")
    add("--threshold", type=float, default=THRESHOLD, metavar="P", help="between near and far (%(default)s)")
    add("--start", type=float, metavar="EPOCH", help="of the picture (7/9 of the training, as in the paper)")


def _add_calibration(parser: argparse.ArgumentParser) -> None:
    _add_out(parser, _calibration, None)
    parser.add_argument("run", help="folder of a run, or a model's id or folder (with rows for it)")
    _add_rows(parser, split="the one that is evaluated")
    parser.add_argument("--bins", type=_from(1), default=15, metavar="N", help="bins of confidence (%(default)s)")


def _add_escape(parser: argparse.ArgumentParser) -> None:
    _add_out(parser, _escape, None)
    add = parser.add_argument
    add("run", help="folder of a run, or a model's id or folder (with rows for it)")
    _add_rows(parser, split="train", samples=64)
    add("--losses", nargs="+", default=["ce", "el", "0"], metavar="LOSS", help="what to measure (ce el 0)")
    add("--noise_batch_size", type=_from(1), metavar="M", help="rows of the batches whose noise is meant (the run's)")
    add("--probes", type=_from(2), default=16, metavar="N", help="random probes (%(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of the probes (%(default)s)")
    add(
        "--eigenvalues",
        type=_from(0, STEPS),
        default=0,
        metavar="N",
        help="the largest of the Hessian (%(default)s)",
    )


def _add_rows(parser: argparse.ArgumentParser, split: str, samples: int | None = None) -> None:
    group = parser.add_argument_group("rows", "left out for a run: its own")
    add = group.add_argument
    add("--dataset_name", metavar="DATASET", help="dataset id or folder")
    add("--dataset_config_name", metavar="NAME", help="configuration of the dataset")
    add("--file", metavar="FILE", help="CSV, TSV, JSON or Parquet with rows")
    add("--split", metavar="SPLIT", help=f"of the dataset ({split})")
    add("--text_column_names", metavar="COLUMN[,COLUMN]", help="the text column, or the two of a pair")
    add("--label_column_name", metavar="COLUMN", help="the column of labels")
    add("--max_seq_length", type=int, metavar="N", help=f"tokens a row is cut to (the run's, or {MAX_LENGTH})")
    add("--max_samples", type=int, default=samples, metavar="N", help=f"keep the first N rows ({samples or 'all'})")
    add("--batch_size", type=int, default=32, metavar="N", help="rows in a batch (%(default)s)")


def _gradients(args: argparse.Namespace) -> None:
    from hf_elmix.diagnostics.gradients import plot_gradients
    from hf_elmix.losses.registry import expand_losses

    losses = [*args.mixing, *map(str, expand_losses(args.losses))] or ["ce", "el", "0-0.5"]
    _draw(args.out, [partial(plot_gradients, losses, classes=args.classes)])


def _cohorts(args: argparse.Namespace) -> None:
    from hf_elmix.analysis.formats import to_markdown
    from hf_elmix.diagnostics.cohort_plots import plot_flow, plot_histograms
    from hf_elmix.predictions.records import read_predictions

    drawings: list[Callable[..., Axes]] = []
    for name, seen in read_predictions(args.run).items():
        print(to_markdown(_transitions(name, seen, args.threshold)))
        drawings.append(partial(plot_flow, seen, threshold=args.threshold, start=args.start))
        drawings.append(partial(plot_histograms, seen, threshold=args.threshold))
    _draw(args.out, drawings)


def _transitions(name: str, seen: Predictions, threshold: float) -> Table:
    """What became of each cohort, from each recorded point."""
    from hf_elmix.analysis.formats import Table
    from hf_elmix.predictions.cohorts import COHORTS, share_table, transition_table

    table = transition_table(seen, threshold)
    shares = share_table(table)
    rows = [
        [f"{table.epoch[step]:g}", *(_share(table, shares, step, cohort) for cohort in COHORTS)]
        for step in table.index
    ]
    caption = (
        f"Of {len(seen.labels)} rows{f' of {name}' if name else ''}, by what the model said of them at an epoch: how "
        f"many were right at epoch {seen.epochs[-1]:g}, with 95 % intervals (Wilson). Wrong rows are near where the "
        f"probability of their label is above {threshold:g}, else far."
    )
    return Table("cohorts", "Cohorts", caption, ["epoch", *COHORTS], rows)


def _share(table: Any, shares: Any, step: int, cohort: str) -> str:
    counts = f"{table[f'{cohort}_end'][step]} of {table[cohort][step]}"
    if not table[cohort][step]:
        return counts
    share, low, high = (100 * shares[f"{cohort}_{name}"][step] for name in ("share", "low", "high"))
    return f"{counts}: {share:.2f} % ({low:.2f} to {high:.2f})"


def _calibration(args: argparse.Namespace) -> None:
    from hf_elmix.analysis.formats import Table, to_markdown
    from hf_elmix.diagnostics.calibration import plot_reliability, score_table, temperature_scaled
    from hf_elmix.predictions.predict import predict

    checkpoint = _checkpoint(args)
    seen = predict(checkpoint.model, checkpoint.loader)
    scaled = temperature_scaled(seen.logits, seen.labels)
    table = score_table(seen.logits, scaled, seen.labels, bins=args.bins)
    rows = [
        [str(name), *(f"{value:.4f}" for value in row)] for name, row in zip(table.index, table.values, strict=True)
    ]
    caption = f"{checkpoint.about}. Temperatures are fitted on one half of the rows and judged on the other."
    print(
        to_markdown(
            Table("calibration", "Calibration", caption, ["", *(name.replace("_", " ") for name in table)], rows)
        )
    )
    kinds = zip(table.index, (seen.logits, scaled[0]), strict=True)
    _draw(args.out, [partial(plot_reliability, {kind: (of, seen.labels) for kind, of in kinds}, bins=args.bins)])


def _escape(args: argparse.Namespace) -> None:
    from hf_elmix.diagnostics.escape import escape, plot_escape, to_text
    from hf_elmix.diagnostics.hessian import constant_losses
    from hf_elmix.diagnostics.sharpness import top_eigenvalues
    from hf_elmix.losses.registry import expand_losses

    losses = constant_losses(expand_losses(args.losses))  # what can be refused at once is
    if args.split is None and args.file is None:
        args.split = "train"
    checkpoint = _checkpoint(args)
    print(checkpoint.about, flush=True)
    model, loader = checkpoint.model, checkpoint.loader
    size = checkpoint.batch_size if args.noise_batch_size is None else args.noise_batch_size
    result = escape(model, loader, losses, probes=args.probes, batch_size=size, seed=args.seed)
    print(to_text(result), flush=True)
    _draw(args.out, [partial(plot_escape, result)])
    for loss in losses if args.eigenvalues else ():
        found = top_eigenvalues(model, loader, loss, args.eigenvalues, steps=STEPS, seed=args.seed)
        print(f"{loss}: largest eigenvalues", ", ".join(f"{one.value:.4g} ± {one.error:.1g}" for one in found))


def _checkpoint(args: argparse.Namespace) -> Checkpoint:
    from hf_elmix.text.checkpoint import Rows, open_checkpoint

    rows = Rows(**{field.name: getattr(args, field.name) for field in fields(Rows)})
    return open_checkpoint(args.run, rows, batch_size=args.batch_size)


def _draw(out: str | None, drawings: Sequence[Callable[..., Any]]) -> None:
    """Draw side by side, whole under a temporary name first."""
    if out is None:
        return
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    axes = [draw(ax=ax) for draw, ax in zip(drawings, _places(figure, len(drawings)), strict=True)]
    legends = [ax.get_legend() for ax in axes]
    rows = max(len(legend.texts) if legend else 0 for legend in legends)
    figure.set_size_inches(5.4 * len(drawings), 4.0 + 0.24 * rows)
    draft = Path(out).with_name(f".{Path(out).name}")
    try:
        figure.savefig(draft, dpi=160, format=Path(out).suffix[1:].lower())
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    print(f"Picture: {out}")


def _places(figure: Figure, count: int) -> list[Axes]:
    return list(figure.subplots(ncols=count, squeeze=False).flat)


def _check_picture(out: str) -> None:
    if Path(out).suffix.lower() not in PICTURES:
        raise UsageError(f"Expected --out to end in {', '.join(PICTURES)}, but got {out!r}.")
    if not Path(out).resolve().parent.is_dir():
        raise UsageError(f"Expected --out in a folder that exists, but got {out!r}.")


if __name__ == "__main__":
    sys.exit(main())
