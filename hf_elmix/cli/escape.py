"""``elmix escape``: the escaping efficiency of losses at a trained model."""

from __future__ import annotations

import argparse
from functools import partial

from hf_elmix.cli.base import Command, whole_number
from hf_elmix.cli.diagnostics import add_out, add_rows, checkpoint_of, save_picture
from hf_elmix.study.spec import MAX_SEED

__all__ = ["COMMAND"]

LANCZOS_STEPS = 30


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("loss").add_argument
    add("--losses", nargs="+", default=["ce", "el", "0"], metavar="LOSS", help="losses to measure")
    add = parser.add_argument_group("measurement").add_argument
    noise = "batch size of the gradient noise (default: as in the run)"
    add("--noise_batch_size", type=whole_number(1), metavar="M", help=noise)
    add("--probes", type=whole_number(2), default=16, metavar="N", help="number of random probes for the trace")
    add("--seed", type=whole_number(0, MAX_SEED), default=0, metavar="N", help="seed of the random probes")
    eigenvalues = "also print the N largest eigenvalues of the Hessian"
    add("--eigenvalues", type=whole_number(0, LANCZOS_STEPS), default=0, metavar="N", help=eigenvalues)
    add_out(parser)
    add_rows(parser, split="train", samples=64)


def _run(args: argparse.Namespace) -> int:
    """Measure the escaping efficiency of losses at a trained model.

    It is Tr(H Sigma), with the Hessian H and the covariance Sigma of the gradient noise: a measure of how
    fast gradient noise drives SGD out of a minimum (larger is faster).
    """
    from hf_elmix.diagnostics.escape import escape, plot_escape, to_text
    from hf_elmix.diagnostics.hessian import constant_losses, top_eigenvalues
    from hf_elmix.losses.registry import expand_losses

    losses = constant_losses(expand_losses(args.losses))  # finds mistakes before anything is loaded
    if args.split is None and args.file is None:
        args.split = "train"
    checkpoint = checkpoint_of(args)
    print(checkpoint.about, flush=True)
    model, loader = checkpoint.model, checkpoint.loader
    size = checkpoint.batch_size if args.noise_batch_size is None else args.noise_batch_size
    result = escape(model, loader, losses, probes=args.probes, batch_size=size, seed=args.seed)
    print(to_text(result), flush=True)
    save_picture(args.out, [partial(plot_escape, result)])
    for loss in losses if args.eigenvalues else ():
        found = top_eigenvalues(model, loader, loss, args.eigenvalues, steps=LANCZOS_STEPS, seed=args.seed)
        print(f"{loss}: largest eigenvalues", ", ".join(f"{one.value:.4g} ± {one.error:.1g}" for one in found))
    return 0


COMMAND = Command(_run, _add_arguments)
