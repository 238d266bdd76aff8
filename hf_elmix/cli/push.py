"""``elmix push``: publish a study on the Hugging Face Hub."""

from __future__ import annotations

import argparse

from hf_elmix.cli.base import Command
from hf_elmix.errors import UsageError

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", help="folder of the study, or its URL")
    template = "publish the kept models under ids such as name/{model}-{task}-{mixing}, optionally with {seed}"
    add("--hub_id_template", metavar="ID", help=template)
    add("--results", action="store_true", help="publish the runs as a dataset")
    add("--hub_id", metavar="ID", help="id of the dataset, such as name/my-study")
    add("--private", action="store_true", default=None, help="make new repositories private")
    add("--overwrite", action="store_true", help="replace repositories that hold something else")


def _run(args: argparse.Namespace) -> int:
    """Publish the kept models or all runs of a study on the Hugging Face Hub.

    Publishes the models that the study kept (--keep), each with a card, or with --results the runs as a dataset. Only
    files that have changed are uploaded. The access token is that of `hf auth login`, or HF_TOKEN.
    """
    needed, other = ("hub_id", "hub_id_template") if args.results else ("hub_id_template", "hub_id")
    if getattr(args, needed) is None or getattr(args, other) is not None:
        raise UsageError("Expected --hub_id_template ID for models, or --results --hub_id ID for the runs.")
    from hf_elmix.hub.push import push_models, push_results
    from hf_elmix.study.store import Store

    store, options = Store(args.runs), {"private": args.private, "overwrite": args.overwrite}
    if args.results:
        print(push_results(store, args.hub_id, **options))
        return 0
    for published in push_models(store, args.hub_id_template, **options):
        print(published, flush=True)
    return 0


COMMAND = Command(
    _run, _add_arguments, interrupted="Repositories on the Hub are complete; run the same command again for the rest."
)
