"""What ``finetune`` tells of its run: the model's card, and publishing both on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from glue_runs.flags import STOCK, DataArguments, FinetuneArguments
from glue_runs.protocol import ARGUMENTS, GLUE
from hf_elmix.errors import UsageError
from hf_elmix.hub.client import ModelSource
from hf_elmix.hub.facts import ModelFacts, model_facts, scores_on
from hf_elmix.hub.model_card import model_mark, write_model_card
from hf_elmix.hub.publish import claim_repo, files_of_model, publish_files
from hf_elmix.study.provenance import software
from hf_elmix.text.rows import revision
from hf_elmix.text.tasks import TextTask

__all__ = ["Hub", "facts_of_run", "share", "take_hub"]

# Arguments that have no influence on the model.
SILENT = ("do_", "log", "eval_", "save_", "report_to", "run_name", "project", "disable_tqdm", "use_cpu", "dataloader_")


@dataclass(frozen=True)
class Hub:
    """Where a model is published.

    Attributes:
        repo_id: Id of the repository; without a namespace it is the user's.
        private: Whether it is to be private; None for what its namespace has as default.
        token: Access token, if not that of the login.
    """

    repo_id: str
    private: bool | None
    token: str | None

    def claim(self, facts: ModelFacts) -> None:
        """Make sure that the model can be published there, before it is trained.

        Raises:
            UsageError: If it cannot.
        """
        claim_repo(self.repo_id, model_mark(facts), private=self.private, create=False, token=self.token)


def take_hub(args: FinetuneArguments) -> Hub | None:
    """Where the model is to be published, if it is; from here on the Trainer knows nothing of it.

    The Trainer would upload, at every save, the pickle of its arguments; and write the token into it.

    Raises:
        UsageError: If there will be nothing to publish.
    """
    name = args.hub_model_id or Path(args.output_dir or "").resolve().name
    hub = Hub(name, args.hub_private_repo, args.hub_token) if args.push_to_hub else None
    args.push_to_hub, args.hub_token = False, None
    if hub is not None and not args.do_train:
        raise UsageError("--push_to_hub publishes the model that was trained. Add --do_train.")
    return hub


def facts_of_run(
    data: DataArguments,
    args: FinetuneArguments,
    source: ModelSource,
    task: TextTask,
    rows: DatasetDict,
    metrics: Mapping[str, float],
) -> ModelFacts:
    """What the card says of a run.

    Args:
        data: Which rows.
        args: How it was trained.
        source: The model it started from.
        task: The task.
        rows: The splits that were used.
        metrics: Those of the evaluation, none before it.
    """
    first = next(iter(rows.values()))
    settings = {
        "text": task.to_settings(),
        "model": source.name,
        "dataset": next(iter(data.files.values()), data.dataset_name or GLUE),
        "config": data.task_name or data.dataset_config_name,
        "loss": None if args.loss == STOCK else args.loss,
        "max_length": data.max_seq_length,
        "padding": data.padding,
        "max_train_samples": data.max_train_samples,
        "max_eval_samples": data.max_eval_samples,
        "arguments": _arguments(args),
    }
    provenance = {
        **software(),
        "model_revision": source.revision,
        "data_revision": revision(first),
        "data_rows": {split: len(part) for split, part in rows.items()},
        "device": str(args.device),
    }
    endings = zip(task.splits, ("", "_mm"), strict=False)
    scores = [
        score
        for split, end in endings
        for score in scores_on(
            split, task.metrics, {k.removesuffix(end): v for k, v in metrics.items() if k.endswith(end)}
        )
    ]
    return model_facts(task.name, settings, provenance, scores, args.seed)


def share(args: FinetuneArguments, facts: ModelFacts, hub: Hub | None) -> None:
    """Write the card beside the model, and publish both if they are to be.

    Raises:
        UsageError: If the Hub takes them not.
    """
    folder = Path(args.output_dir or "")
    write_model_card(folder, facts, folder.name if hub is None else hub.repo_id)
    if hub is not None:
        files, mark = files_of_model(folder), model_mark(facts)
        print(publish_files(files, hub.repo_id, mark, private=hub.private, token=hub.token))


def _arguments(args: FinetuneArguments) -> dict[str, Any]:
    """The protocol's arguments, and those that are not what they are by default."""
    known = {field.name: field.default for field in fields(args) if field.default is not MISSING}
    said = {name: getattr(args, name) for name, default in known.items() if getattr(args, name) != default}
    told = {name: value for name, value in said.items() if not name.startswith((*SILENT, "loss", "mixing", "seed"))}
    plain = {name: value for name, value in told.items() if isinstance(value, str | int | float | bool)}
    return {**{name: getattr(args, name) for name in ARGUMENTS}, **plain}
