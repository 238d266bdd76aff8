"""Continue a fine-tuning run from a whole checkpoint that was made with the same arguments, rows and model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from transformers.trainer_utils import get_last_checkpoint

from glue_runs.arguments import DataArguments
from glue_runs.training_arguments import FinetuneArguments
from hf_elmix.errors import UsageError
from hf_elmix.hub.client import ModelSource
from hf_elmix.study.provenance import device_name, software
from hf_elmix.text.rows import digest
from hf_elmix.text.tasks import TextTask
from hf_elmix.training.resumable import RunSettings, changes, check_checkpoint, settings_in

__all__ = ["LAST", "affects_training", "find_checkpoint", "settings_callback"]

LAST = ("true", "last")  # values of --resume_from_checkpoint for the newest checkpoint in the output folder
# Prefixes of arguments without influence on the model. Those that save memory change it by rounding at most.
NO_EFFECT = (
    *("activation_checkpointing", "auto_find", "batch_eval", "bf16_full", "dataloader_", "ddp_", "debug"),
    *("disable_tqdm", "do_", "enable_jit", "eval_", "fp16_full", "gradient_checkpointing", "hub_", "ignore_data"),
    *("include_", "length_", "local_rank", "log", "output_dir", "per_device_eval", "precision", "prediction_loss"),
    *("project", "push_", "remove_unused", "report_to", "restore_", "resume_", "run_name", "save_", "skip_memory"),
    *("torch_empty", "trackio", "use_c"),
)


def affects_training(name: str) -> bool:
    """Whether a training argument influences the model."""
    return name == "dataloader_drop_last" or not name.startswith(NO_EFFECT)


def find_checkpoint(args: FinetuneArguments) -> str | None:
    """Return the checkpoint from which to continue, if any.

    Raises:
        UsageError: If there is none where it should be, or nothing is trained.
    """
    given = args.resume_from_checkpoint
    if given is not None and not args.do_train:
        raise UsageError("--resume_from_checkpoint continues the training. Add --do_train.")
    if given in LAST:
        last = get_last_checkpoint(args.output_dir) if Path(args.output_dir or "").is_dir() else None
        if last is None:
            raise UsageError(f"Expected a checkpoint in {args.output_dir!r} to continue from, but it has none.")
        return last
    if given is not None and not os.path.isdir(given):
        raise UsageError(f"Expected a folder, but --resume_from_checkpoint {given!r} is not one.")
    return given


def settings_callback(
    checkpoint: str | None,
    data: DataArguments,
    args: FinetuneArguments,
    source: ModelSource,
    task: TextTask,
    rows: DatasetDict,
) -> RunSettings:
    """Return the callback that keeps in each checkpoint how it was made, and check one to continue from.

    Its settings have, besides what must not change, ``software`` and ``continued``: sentences about what has changed.

    Raises:
        UsageError: If the checkpoint is damaged, or was made with other arguments, rows or another model.
    """
    arguments = {name: value for name, value in args.to_dict().items() if affects_training(name)}
    processes = args.world_size * max(args.n_gpu, 1)
    settings = {
        "arguments": arguments | {name: getattr(data, name) for name in ("max_seq_length", "padding")},
        "number of processes": processes,
        "weights to start from": source.fingerprint,
        "task": {name: getattr(task, name) for name in ("columns", "labels", "metrics")},
        "rows": {split: digest(part, task) for split, part in rows.items() if split not in task.test_splits},
    }
    versions = software()
    used = {**versions["versions"], "commit of hf_elmix": versions["commit"], "device": device_name(args.device)}
    continued: list[str] = []
    if checkpoint is not None:
        if not (args.deepspeed or args.fsdp):  # which have checkpoints of their own kind
            check_checkpoint(Path(checkpoint), settings, args.world_size)
        continued = _continued(Path(checkpoint), used)
    return RunSettings({**settings, "software": used, "continued": continued})


def _continued(checkpoint: Path, software: dict[str, Any]) -> list[str]:
    """What changed between a checkpoint and the training that continues from it, and what had changed before."""
    before, place = settings_in(checkpoint), f"Training continued from {checkpoint.name}"
    if before is None:
        return [f"{place}, which does not say with which arguments it was made."]
    changed = ", ".join(changes(before["software"], software))
    return [*before["continued"], *([f"{place} with other software or hardware: {changed}."] if changed else [])]
