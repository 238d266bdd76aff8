"""The arguments of every study, and running a study with them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_elmix.cli.base import EXIT_FAILED, check_folder, check_installed, name_of_flag, whole_number
from hf_elmix.errors import UsageError
from hf_elmix.losses.registry import EXAMPLES, expand_losses, parse_loss
from hf_elmix.machine import usable_cores
from hf_elmix.study.spec import DEFAULTS, KEEP, MAX_SEED, TRACKERS
from hf_elmix.terminal import printable

if TYPE_CHECKING:
    from hf_elmix.study.executors.local import Executor
    from hf_elmix.study.spec import Study

__all__ = [
    "INTERRUPTED",
    "PRECISIONS",
    "add_arguments",
    "add_execution",
    "add_training_flags",
    "check_execution",
    "check_inputs",
    "cluster_of",
    "executor_of",
    "losses_and_arguments",
    "precision_arguments",
    "run_study",
    "study_training_arguments",
]

AUTO = "auto"
PRECISIONS = ("fp32", "bf16", AUTO)
INTERRUPTED = "Completed runs are kept; run the same command again to continue."

# Training arguments that the study sets, and what to do instead.
REPLACED = {
    "engine": "type --executor",
    "output_dir": "type --output_dir",
    "seed": "type --seeds",
    "mixing": "type --mixings",
    "loss": "type --losses",
    "eval_strategy": "every epoch is evaluated",
    **dict.fromkeys(("metric_for_best_model", "greater_is_better"), "each task says which number is its score"),
    "label_names": "each task has its own",
    "resume_from_checkpoint": "the same command continues a study that was stopped",
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), "a study trains and evaluates"),
    **dict.fromkeys(("eval_delay", "eval_steps"), "every epoch is evaluated"),
    **dict.fromkeys(("save_strategy", "save_steps", "save_total_limit"), "--keep says which models are kept"),
    **dict.fromkeys(("save_only_model", "load_best_model_at_end"), "--keep says which models are kept"),
    **dict.fromkeys(("prediction_loss_only", "batch_eval_metrics"), "a score needs all predictions at once"),
    **dict.fromkeys(("run_name", "project"), "trackers name a run after its task, loss and seed"),
    "no_remove_unused_columns": "a model gets its tokens and labels, which are all columns that are kept",
    **dict.fromkeys(("push_to_hub", "hub_token"), "publish with the command push"),
}


def add_arguments(
    parser: argparse.ArgumentParser,
    *,
    seeds: Sequence[int],
    losses: Sequence[str],
    executors: Sequence[str] = ("local", "ray"),
) -> None:
    """Add the arguments of every study, with default seeds and losses."""
    add = parser.add_argument_group("loss", "Each task is trained with each loss and each seed.").add_argument
    add("--mixings", nargs="+", metavar="MIXING", help="schedules of the mixed loss, added to --losses")
    losses_help = (
        f"any losses, such as {EXAMPLES}; table4: the six methods of the paper's Table 4 (default without --mixings: "
        f"{' '.join(losses)})"
    )
    add("--losses", nargs="+", metavar="LOSS", help=losses_help)
    add = parser.add_argument_group("runs").add_argument
    add("--seeds", nargs="+", type=whole_number(0, MAX_SEED), default=seeds, metavar="SEED", help="random seeds")
    add("--no_sharing", action="store_true", help="train each run from the start, without shared prefixes")
    add("--retry_failed", action="store_true", help="repeat runs that failed")
    add("--overwrite", action="store_true", help="delete existing runs of these tasks first")

    add_execution(parser, executors)
    add = parser.add_argument_group("results").add_argument
    add("--output_dir", required=True, metavar="FOLDER", help="folder of the study, or its URL")
    kept = "models: keep every trained model; best: only the best seed per task and loss; none"
    add("--keep", choices=KEEP, default="none", help=kept)
    cohorts = "also record the predictions for each evaluation row at each epoch; completed runs are not repeated"
    add("--cohorts", action="store_true", help=cohorts)
    trackers = f"log the runs while they train: {', '.join(TRACKERS)}"
    add("--report_to", nargs="+", choices=(*TRACKERS, "none"), default=[], metavar="TRACKER", help=trackers)


def add_execution(
    parser: argparse.ArgumentParser, executors: Sequence[str] = ("local", "ray"), chosen: str = ""
) -> None:
    """Add the arguments that say how runs are trained (see `executor_of`).

    The first executor is the default one, unless the command chooses, as it says in the text `chosen`.
    """
    add = parser.add_argument_group("execution").add_argument
    how = "how runs are trained" + ("; stacked: many runs as one batched model" * ("stacked" in executors))
    how += f" (default: {chosen})" if chosen else ""
    add("--executor", choices=executors, default=None if chosen else executors[0], help=how)
    workers = "number of local processes; each gets one GPU, if available; auto: one for each GPU, else for each core"
    add("--workers", type=whole_number(1, word=AUTO), metavar="N", help=f"{workers} (default: 1)")
    shared = "runs at a time on each GPU, local or on Ray; auto (local only): as many as fit into its memory"
    add("--workers_per_gpu", type=whole_number(1, word=AUTO), metavar="N", help=f"{shared} (default: 1)")
    precision = "bf16: matrix products in bfloat16; auto: only where they are faster (default: fp32)"
    add("--precision", choices=PRECISIONS, help=precision)
    add("--ray_address", metavar="ADDRESS", help="address of a Ray cluster (default: start one on this machine)")


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of TrainingArguments that a study takes; this imports PyTorch."""
    from transformers import TrainingArguments

    from hf_elmix.cli.help import add_flags_of
    from hf_elmix.cli.training_flags import FlagParser

    hub = (flag for flag in TrainingArguments.__dataclass_fields__ if flag.startswith("hub_"))
    add_flags_of(FlagParser(TrainingArguments, parser.prog), parser, {*REPLACED, *hub})


def check_execution(args: argparse.Namespace) -> None:
    """Refuse arguments of `add_execution` that contradict each other, or name a cluster that does not answer.

    Raises:
        UsageError: If they do.
    """
    if args.ray_address and args.executor != "ray":
        raise UsageError("--ray_address needs --executor ray.")
    if args.workers is not None and args.executor == "ray":
        raise UsageError("--workers needs --executor local: a Ray cluster trains as many runs at a time as it can.")
    if args.workers is not None and args.workers_per_gpu is not None:
        raise UsageError(
            "--workers is the number for all GPUs, and --workers_per_gpu that for each. Leave one of them out."
        )
    if args.workers_per_gpu == AUTO and args.executor == "ray":
        raise UsageError("--workers_per_gpu auto needs --executor local. For a Ray cluster, type a number.")
    if args.executor == "ray":
        from hf_elmix.study.executors.cluster import check_address

        check_address(args.ray_address)


def losses_and_arguments(
    args: argparse.Namespace, prog: str, defaults: Mapping[str, Any], losses: Sequence[str], parts: Sequence[str] = ()
) -> tuple[list[str], dict[str, Any]]:
    """The losses of a study and its training arguments, as typed after `add_arguments`; its execution is checked, too.

    `parts` are folders in the output folder, if it holds several studies.

    Raises:
        UsageError: As `check_execution` and `study_training_arguments`.
    """
    check_execution(args)
    check_installed(name for name in args.report_to if name != "none")
    chosen = [*(args.mixings or ()), *(args.losses or ())] or list(losses)
    for loss in expand_losses(chosen):
        parse_loss(loss)
    arguments = study_training_arguments(args.rest, prog, defaults, chosen, args.parser.flags)
    return chosen, {**arguments, **precision_arguments(args, arguments, parts)}


def precision_arguments(
    args: argparse.Namespace, arguments: Mapping[str, Any], parts: Sequence[str] = ()
) -> dict[str, Any]:
    """The training arguments that ``--precision`` stands for; says what ``auto`` has chosen.

    Args:
        args: With the arguments of `add_execution`, ``output_dir`` and ``overwrite``.
        arguments: The training arguments that were given.
        parts: Folders in `output_dir`, if it holds several studies.

    Raises:
        UsageError: If one of those is a precision, too.
    """
    if args.precision is None:
        return {}
    if both := [name for name in ("bf16", "fp16") if name in arguments]:
        raise UsageError(f"Expected --precision or --{both[0]}, but got both. Leave one out.")
    from hf_elmix.training.precision import choose_precision

    folders = [args.output_dir, *(f"{args.output_dir.rstrip('/')}/{part}" for part in parts)]
    known = [] if args.overwrite else [found for folder in folders if (found := _precision_of(folder))]
    kept = known[0] if known else None
    if args.precision == AUTO and args.executor == "stacked":
        chosen, sentence = "fp32", "Precision: fp32, the default of stacks"
    else:
        chosen, sentence = choose_precision(args.precision, kept)
    print(printable(sentence), file=sys.stderr, flush=True)
    return {"bf16": True} if chosen == "bf16" else {}


def _precision_of(folder: str) -> str | None:
    """The precision that the study of a folder was declared with, or None if there is none."""
    from hf_elmix.study.store import Store

    declared = [settings.get("arguments", {}) for settings in Store(folder).declaration()["settings"].values()]
    return ("bf16" if any(arguments.get("bf16") for arguments in declared) else "fp32") if declared else None


def study_training_arguments(
    words: Sequence[str], prog: str, defaults: Mapping[str, Any], losses: Iterable[str] = (), known: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the training arguments among the words that the parser of a study does not know.

    Args:
        words: The words.
        prog: Name of the command.
        defaults: The study's own training arguments.
        losses: The losses that are trained with them.
        known: Other flags, one of which an unknown word may have been meant as.

    Raises:
        UsageError: If one is unknown, not valid or set by the study, or if arguments contradict each other.
    """
    for word in words:
        name = name_of_flag(word)
        if word.startswith("--") and (name in REPLACED or name.startswith("hub_")):
            instead = REPLACED.get(name, REPLACED["push_to_hub"])
            raise UsageError(f"--{name} cannot be used in a study: {instead}.")
    if not words:
        return {}
    from hf_elmix.cli.training_flags import training_arguments

    return training_arguments(words, prog, {**DEFAULTS, **defaults}, expand_losses(losses), known)


def check_inputs(output_dir: str, **inputs: str) -> None:
    """Refuse local data or a local model in the output folder, in which a study replaces and deletes files.

    Args:
        output_dir: Folder of the study, or its URL.
        inputs: Ids or paths by flag.

    Raises:
        UsageError: If one of them is a path inside the folder, or the folder cannot be used.
    """
    from hf_elmix.study.files import local_path
    from hf_elmix.study.store import Store

    if "://" not in output_dir:
        check_folder(output_dir)
    if any(part.startswith("memory:") for part in output_dir.split("::")):
        raise UsageError(
            f"Expected --output_dir to outlive this command, but {output_dir!r} is in its memory. Type a folder or "
            "the URL of a bucket."
        )
    store = Store(output_dir)
    folder = local_path(store.folder)
    if folder is None:
        store.check_writable()
        print("There are no locks behind a URL: run one command at a time with this --output_dir.", file=sys.stderr)
    for flag, value in inputs.items():
        path = os.path.expanduser(value)
        if folder is not None and os.path.exists(path) and Path(path).resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"Expected --{flag} outside of --output_dir, but {value!r} is in {str(folder)!r}. Move one."
            )


def run_study(study: Study, args: argparse.Namespace) -> int:
    """Train the runs of a study that are not done yet, and print how many runs have each status.

    Args:
        study: The study.
        args: With the arguments of `add_arguments`, and ``typed``.

    Returns:
        The exit code: 1 if any run failed, 0 otherwise (including diverged runs).

    Raises:
        UsageError: If the folder holds another study, or a tracker or cluster cannot be used.
    """
    from hf_elmix.study.grid import run_grid
    from hf_elmix.study.runner import check_study, run_branch
    from hf_elmix.study.store import Store

    run: Any = partial(run_branch, cohorts=args.cohorts)
    if args.executor == "stacked":
        run = _run_of_stacks(study, args)
    store, options = Store(args.output_dir), {}
    if args.report_to:
        from hf_elmix.study.trackers import Tracking, check_trackers

        options["tracking"] = Tracking(check_trackers(args.report_to, store), study, store)
    check_study(study, store)
    with cluster_of(args):
        counts = run_grid(
            study,
            store,
            run,
            executor=executor_of(args, study),
            sharing=not args.no_sharing and args.executor != "stacked",
            keep=args.keep,
            retry_failed=args.retry_failed,
            overwrite=args.overwrite,
            command=args.typed,
            **options,
        )
    print(", ".join(f"{count} {status}" for status, count in counts.items()) + f": {args.output_dir}")
    if counts["failed"]:
        print("The records of failed runs hold the errors; --retry_failed repeats these runs.", file=sys.stderr)
    return EXIT_FAILED if counts["failed"] else 0


def cluster_of(args: argparse.Namespace) -> AbstractContextManager[Any]:
    """Connect to the Ray cluster with an address, before the study is declared; its own is started when needed."""
    if args.executor != "ray" or not (args.ray_address or os.environ.get("RAY_ADDRESS")):
        return nullcontext()
    from hf_elmix.study.executors.cluster import connected

    return connected(args.ray_address)


def executor_of(args: argparse.Namespace, study: Study) -> Executor:
    """The executor that the arguments of `add_execution` ask for."""
    if args.executor == "ray":
        from hf_elmix.study.executors.ray import run_on_ray

        options = {"address": args.ray_address, "folder": args.output_dir, "tasks_per_gpu": args.workers_per_gpu or 1}
        return partial(run_on_ray, **options)
    from hf_elmix.study.executors.local import run_in_process, run_in_workers, visible_gpus

    gpus = 0 if study.arguments.get("use_cpu") else len(visible_gpus())
    workers, each = args.workers or 1, args.workers_per_gpu
    if each is not None and not gpus:
        raise UsageError(
            "--workers_per_gpu needs a GPU, and there is none for this study. Type --workers auto instead."
        )
    if each == AUTO:
        workers = min(max(gpus, usable_cores()), len(study.runs()))  # each needs a core, too
    elif each is not None:
        workers = gpus * each
    elif workers == AUTO:
        workers = min(gpus or usable_cores(), len(study.runs()))
    # With several GPUs, the Trainer would spread each batch over them in this process, which changes the training.
    in_process = workers == 1 and len(visible_gpus()) < 2
    local = run_in_process if in_process else partial(run_in_workers, workers=workers, fill_gpus=each == AUTO)
    if args.executor != "stacked":
        return local
    from hf_elmix.study.executors.stacked import run_stacked

    return partial(run_stacked, within=local)


def _run_of_stacks(study: Study, args: argparse.Namespace) -> Any:
    """What trains a stack, from which neither models nor predictions are kept."""
    from hf_elmix.study.executors.stacked import check_stackable, run_stack

    for flag, given in {"--cohorts": args.cohorts, f"--keep {args.keep}": args.keep != "none"}.items():
        if given:
            raise UsageError(f"{flag} needs runs that are trained one by one. Type --executor local, too.")
    check_stackable(study)
    return run_stack
