"""The command line: ``glue-runs finetune | study | status | report | push | demo``."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glue_runs import protocol
from hf_elmix.cli.base import EXIT_FAILED, OneLineParser, exit_code
from hf_elmix.cli.report import add_arguments, report
from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.losses.registry import EXAMPLES
from hf_elmix.study.spec import KEEP

if TYPE_CHECKING:
    from hf_elmix.study.executors.local import Executor
    from hf_elmix.study.spec import RunRecord, Study

__all__ = ["main"]

STOPPED = {
    "study": "What is done is kept; the same command goes on from there.",
    "demo": "What is done is kept; the same command goes on from there.",
    "push": "What is on the Hub is whole; the same command goes on from there.",
    "finetune": "--resume_from_checkpoint FOLDER goes on from a checkpoint, where one was saved (see --save_steps).",
}

# Training arguments that a study sets itself.
OWN = {
    "output_dir": "--output_dir",
    "seed": "--seeds",
    "mixing": "--mixings",
    "loss": "--losses",
    "eval_strategy": "every epoch is scored",
    "label_names": "the tasks have their own",
    "resume_from_checkpoint": "started again, a study goes on by itself",
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), "it trains and scores"),
    **dict.fromkeys(("save_strategy", "load_best_model_at_end"), "--keep says which models stay"),
    **dict.fromkeys(("push_to_hub", "hub_token"), "a study pushes nothing"),
}

# Training arguments under which evaluation rows do not come in their order, or not all of them.
OUT_OF_ORDER = {"train_sampling_strategy": "group_by_length", "dataloader_drop_last": True}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake ends in one line on standard error and exit code 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    stopped = STOPPED.get(words[0] if words else "", "What is done is kept.")
    return exit_code("glue-runs", lambda: _run_command(words), extra="glue", stopped=stopped)


def _run_command(words: list[str]) -> int:
    if words[:1] == ["finetune"]:  # Its flags are those of the Trainer, which has a parser of its own.
        from glue_runs.finetune import finetune

        return finetune(words[1:])
    args, rest = _parser().parse_known_args(words)
    args.words = words
    return args.command(args, rest)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="glue-runs", description="The GLUE study of the mixed loss.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("finetune", help="one run, with run_glue's flags and --mixing or --loss", add_help=False)
    _add_study(
        commands.add_parser("study", allow_abbrev=False, help="tasks x seeds x losses, one record for each run")
    )
    _add_status(
        commands.add_parser("status", allow_abbrev=False, help="which runs are done, running, failed, missing")
    )
    _add_report(commands.add_parser("report", allow_abbrev=False, help="figure and tables of a folder of runs"))
    _add_push(
        commands.add_parser("push", allow_abbrev=False, help="kept models, or the runs, to the Hugging Face Hub")
    )
    _add_demo(commands.add_parser("demo", allow_abbrev=False, help="the whole study on generated rows, offline"))
    return parser


def _add_study(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_study)
    parser.description = (
        "Trains every task with every seed and every loss and writes one record for each run. Started again, it "
        "goes on where it stopped. The flags of transformers.TrainingArguments are taken too, such as --bf16."
    )
    add = parser.add_argument
    add("--output_dir", required=True, help="folder of the records")
    add(
        "--tasks",
        nargs="+",
        default=protocol.TASK_NAMES,
        metavar="TASK",
        help=f"default: {_words(protocol.TASK_NAMES)}",
    )
    add(
        "--seeds",
        nargs="+",
        type=int,
        default=protocol.SEEDS,
        metavar="SEED",
        help=f"default: {_words(protocol.SEEDS)}",
    )
    add(
        "--mixings",
        nargs="+",
        metavar="MIXING",
        help=f"schedules of the mixed loss; default, where there are no --losses: {_words(protocol.MIXINGS)}",
    )
    add("--losses", nargs="+", metavar="LOSS", help=f"any losses, as in {EXAMPLES}; table4: those of the paper's")
    add("--model_name_or_path", default=protocol.BERT, metavar="MODEL", help="model id or folder (%(default)s)")
    add("--dataset_name", default=protocol.GLUE, metavar="DATASET", help="dataset id or folder (%(default)s)")
    add("--max_seq_length", type=int, default=protocol.MAX_LENGTH, metavar="N", help="tokens of a row (%(default)s)")
    add("--max_train_samples", type=int, metavar="N", help="keep the first N training rows of each task")
    add("--max_eval_samples", type=int, metavar="N", help="keep the first N rows of each evaluation split")
    add("--padding", choices=protocol.PADDINGS, default=protocol.PADDINGS[0], help="of batches (%(default)s)")
    add(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes at work, each with its own GPU if there are any; Ray has its own",
    )
    add("--engine", choices=("local", "ray"), default="local", help="where the work is done (%(default)s)")
    add("--ray_address", metavar="ADDRESS", help="of a Ray cluster; left out, one is started on this machine")
    add("--no_sharing", action="store_true", help="train every run from the start, also what runs have in common")
    add("--keep", choices=KEEP, default="none", help="which trained models stay (%(default)s); best: of each loss")
    add(
        "--cohorts",
        action="store_true",
        help="keep beside each record what its model says of each evaluation row at every epoch; only of runs that "
        "are still to be done",
    )
    add(
        "--report_to", nargs="+", default=[], metavar="TRACKER", help="tensorboard, trackio, wandb; a run when it ends"
    )
    add("--retry_failed", action="store_true", help="do failed runs again")
    add("--overwrite", action="store_true", help="first delete what the folder holds of these tasks")


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_status)
    parser.add_argument("runs", help="folder of the records, or its URL")


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_report)
    parser.add_argument("runs", help="folder of the records")
    add_arguments(parser)


def _add_push(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_push)
    parser.description = (
        "Publishes the models that --keep has left beside their records, each with a card, or with --results the runs "
        "themselves as a dataset. Only what the Hub does not have yet is uploaded. The access token is that of `hf "
        "auth login`, or HF_TOKEN."
    )
    parser.add_argument("runs", help="folder of the records, or its URL")
    parser.add_argument(
        "--hub_id_template", metavar="ID", help="id of each model, such as name/{model}-{task}-{mixing}, also {seed}"
    )
    parser.add_argument("--results", action="store_true", help="publish the runs as a dataset")
    parser.add_argument("--hub_id", metavar="ID", help="id of that dataset, such as name/my-study")
    parser.add_argument("--private", action="store_true", default=None, help="make new repositories private")
    parser.add_argument("--overwrite", action="store_true", help="replace repositories that hold something else")


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_demo)
    parser.add_argument("--output_dir", default="demo", help="folder of rows, records and report (%(default)s)")


def _study(args: argparse.Namespace, rest: list[str]) -> int:
    if args.workers < 1:
        raise UsageError(f"Expected --workers to be 1 or more, but got {args.workers}.")
    if args.ray_address and args.engine != "ray":
        raise UsageError("--ray_address needs --engine ray.")
    arguments = _training_arguments(rest)
    if args.cohorts:
        _check_order(arguments)
    from glue_runs.study import glue_study

    study = glue_study(
        args.tasks,
        args.seeds,
        [*(args.mixings or ()), *(args.losses or ())] or protocol.MIXINGS,
        model=args.model_name_or_path,
        dataset=args.dataset_name,
        max_length=args.max_seq_length,
        max_train_samples=args.max_train_samples,
        max_eval_samples=args.max_eval_samples,
        padding=args.padding,
        in_memory=args.engine == "ray",  # its machines may share no disk with this one
        arguments=arguments,
    )
    options = {name: getattr(args, name) for name in ("keep", "retry_failed", "overwrite", "cohorts")}
    if args.report_to:
        options["track"] = _tracking(args.report_to, args.output_dir)
    options["command"] = shlex.join(["glue-runs", *args.words])
    return _run(study, args.output_dir, _engine(args), sharing=not args.no_sharing, **options)


def _status(args: argparse.Namespace, rest: list[str]) -> int:
    _refuse_rest(rest)
    from rich.console import Console

    from hf_elmix.study.progress import SIGNS, grid_table
    from hf_elmix.study.status import status_of
    from hf_elmix.study.store import Store

    states = status_of(Store(args.runs))
    console = Console(highlight=False, markup=False)
    console.print(grid_table({key: state for key, (state, _) in states.items()}))
    counts = Counter(state for state, _ in states.values())
    console.print(", ".join(f"{SIGNS[state][0]} {count} {state}" for state, count in counts.items()))
    for key, (state, reason) in states.items():
        if state in ("failed", "running", "missing"):
            console.print(f"{key}: {state}: {reason}", soft_wrap=True)
    return 0


def _report(args: argparse.Namespace, rest: list[str]) -> int:
    _refuse_rest(rest)
    again = ["glue-runs", "report", args.runs]
    for name in ("output_dir", "baseline", "title"):
        if getattr(args, name) is not None:
            again += [f"--{name}", getattr(args, name)]
    return report(args.runs, args, [shlex.join(again)])


def _push(args: argparse.Namespace, rest: list[str]) -> int:
    _refuse_rest(rest)
    needed, other = ("hub_id", "hub_id_template") if args.results else ("hub_id_template", "hub_id")
    if getattr(args, needed) is None or getattr(args, other) is not None:
        raise UsageError("Expected --hub_id_template ID for models, or --results --hub_id ID for the runs.")
    from hf_elmix.hub.push import push_models, push_results
    from hf_elmix.study.store import Store

    options = {"private": args.private, "overwrite": args.overwrite}
    if args.results:
        print(push_results(Store(args.runs), args.hub_id, **options))
        return 0
    for published in push_models(Store(args.runs), args.hub_id_template, **options):
        print(published, flush=True)
    return 0


def _demo(args: argparse.Namespace, rest: list[str]) -> int:
    _refuse_rest(rest)
    from glue_runs.demo import ABOUT, demo_study

    print(ABOUT)
    folder = Path(args.output_dir)
    workers = argparse.Namespace(engine="local", workers=os.cpu_count() or 1)
    command = shlex.join(["glue-runs", "demo", "--output_dir", args.output_dir])
    code = _run(demo_study(folder), folder / "runs", _engine(workers), command=command)
    options = {
        "output_dir": str(folder / "report"),
        "baseline": None,
        "title": "The demo: generated rows, seven tasks",
    }
    report(str(folder / "runs"), argparse.Namespace(**options), [])
    return code


def _engine(args: argparse.Namespace) -> Executor:
    """Where the branches of a study are done."""
    from hf_elmix.study.executors.local import run_in_process, run_in_workers, visible_gpus

    if args.engine == "ray":
        from hf_elmix.study.executors.ray import run_on_ray

        return partial(run_on_ray, address=args.ray_address, folder=args.output_dir)
    # In this process the Trainer would spread each batch over all GPUs, which is another training.
    alone = args.workers == 1 and len(visible_gpus()) < 2
    return run_in_process if alone else partial(run_in_workers, workers=args.workers)


def _tracking(names: list[str], folder: str) -> Callable[[RunRecord], None]:
    """What hands the runs of a study over to trackers."""
    from hf_elmix.study.store import Store
    from hf_elmix.study.trackers import check_trackers, track

    store = Store(folder)
    return partial(track, store=store, trackers=check_trackers(names, store))


def _check_order(arguments: dict[str, Any]) -> None:
    """Refuse training arguments under which --cohorts would record nothing."""
    for name, value in OUT_OF_ORDER.items():
        if arguments.get(name) == value:
            raise UsageError(f"--cohorts needs all evaluation rows in their order. Leave --{name} out.")


def _run(study: Study, folder: str | Path, executor: Executor, *, cohorts: bool = False, **options: Any) -> int:
    from hf_elmix.study.grid import run_grid
    from hf_elmix.study.runner import run_branch
    from hf_elmix.study.store import Store

    counts = run_grid(study, Store(folder), partial(run_branch, cohorts=cohorts), executor=executor, **options)
    print(", ".join(f"{count} {status}" for status, count in counts.items()) + f": {folder}")
    if counts["failed"]:
        print("Failed runs keep their error in their record; --retry_failed does them again.", file=sys.stderr)
    return EXIT_FAILED if counts["failed"] else 0


def _training_arguments(rest: list[str]) -> dict[str, Any]:
    """The flags of `TrainingArguments` on the command line, and no others: the rest keep the protocol's values."""
    names = [word[2:].split("=")[0].replace("-", "_") for word in rest if word.startswith("--")]
    for name in names:
        if name in OWN or name.startswith("hub_"):
            raise UsageError(
                f"--{name} has no place in a study ({OWN.get(name, 'a study pushes nothing')}). Leave it out."
            )
    if not rest:
        return {}
    from transformers import TrainingArguments

    from glue_runs.flags import FlagParser, check_arguments

    kind: Any = TrainingArguments
    parsed, unknown = FlagParser(kind, prog="glue-runs study").parse_known_args([*rest, "--output_dir", "unused"])
    _refuse_rest(unknown)
    arguments = {name: getattr(parsed, name) for name in (_field(name, parsed) for name in names)}
    try:
        check_arguments(TrainingArguments(output_dir="unused", **arguments))
    except ValueError as error:
        raise UsageError(in_one_line(error)) from error
    return arguments


def _field(name: str, parsed: argparse.Namespace) -> str:
    """The field behind a flag: one that is true by default has a flag --no_NAME."""
    return name if hasattr(parsed, name) else name.removeprefix("no_")


def _refuse_rest(rest: list[str]) -> None:
    if rest:
        raise UsageError(f"Unknown argument {rest[0]!r}. See --help for those that exist.")


def _words(values: Sequence[Any]) -> str:
    return " ".join(map(str, values))


if __name__ == "__main__":
    sys.exit(main())
