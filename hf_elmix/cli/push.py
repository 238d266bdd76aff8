"""``elmix push``: publish a study on the Hugging Face Hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from hf_elmix.cli.base import Command
from hf_elmix.errors import UsageError

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", help="folder of the study, or its URL; or the folder of a model that finetune left")
    template = "publish the kept models under ids such as name/{model}-{task}-{mixing}, optionally with {seed}"
    add("--hub_id_template", metavar="ID", help=template)
    add("--results", action="store_true", help="publish the runs as a dataset")
    add("--hub_id", metavar="ID", help="id of the dataset, such as name/my-study, or of the single model")
    add("--license", metavar="NAME", help="such as apache-2.0; for models, by default that of the base model")
    add("--private", action="store_true", default=None, help="make new repositories private")
    add("--overwrite", action="store_true", help="replace repositories that hold something else")


def _run(args: argparse.Namespace) -> int:
    """Publish the kept models or all runs of a study, or a single model, on the Hugging Face Hub.

    Publishes a study's kept models (--keep), its runs as a dataset (--results), or the model that `finetune` left in a
    folder, each with a card. The same command again uploads what has changed since. The access token is that of `hf
    auth login`, or HF_TOKEN.
    """
    if (args.hub_id is None) == (args.hub_id_template is None) or (args.results and args.hub_id is None):
        raise UsageError(
            "Expected --hub_id_template ID for the models of a study, --results --hub_id ID for its runs, or --hub_id "
            "ID for a single model."
        )
    from hf_elmix.hub.push import push_folder, push_models, push_results
    from hf_elmix.study.store import Store

    options = {"licence": args.license, "private": args.private, "overwrite": args.overwrite}
    if args.results:
        print(push_results(Store(args.runs), args.hub_id, **options))
    elif args.hub_id is not None:
        print(push_folder(Path(args.runs), args.hub_id, **options))
    else:
        for published in push_models(Store(args.runs), args.hub_id_template, **options):
            print(published, flush=True)
    return 0


COMMAND = Command(
    _run, _add_arguments, interrupted="Repositories on the Hub are complete; run the same command again for the rest."
)
