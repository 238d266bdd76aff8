"""One fine-tuning run with run_glue's flags, and ``--mixing`` or ``--loss``."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint
from upath import UPath

from glue_runs.arguments import DataArguments, ModelArguments
from glue_runs.flags import STOCK
from glue_runs.metrics import COMBINED, PAIRS, with_combined_score
from glue_runs.protocol import ARGUMENTS, GLUE
from glue_runs.resume import LAST, affects_training, find_checkpoint, settings_callback
from glue_runs.tasks import GLUE_TASKS, find_task
from glue_runs.training_arguments import FinetuneArguments
from hf_elmix.errors import UsageError, in_one_line, not_one_of
from hf_elmix.hub.client import ModelSource
from hf_elmix.hub.facts import ModelFacts, scores_on
from hf_elmix.hub.model_card import model_mark, write_model_card
from hf_elmix.hub.publish import claim_repo, files_of_model, publish_files
from hf_elmix.hub.push import licensed
from hf_elmix.losses.registry import parse_loss
from hf_elmix.study.files import StorageError, naming_storage_faults, write_bytes
from hf_elmix.study.provenance import software
from hf_elmix.terminal import printable
from hf_elmix.text.custom import custom_task, find_splits
from hf_elmix.text.files import read_files
from hf_elmix.text.labels import for_model, model_classes
from hf_elmix.text.limits import tokens_for
from hf_elmix.text.metrics import LEAST, as_rows, check_metric, predicted_classes, predicted_values
from hf_elmix.text.models import check_model, find_model, load_config, load_model, load_tokenizer
from hf_elmix.text.padding_free import drop_padding
from hf_elmix.text.rows import first_rows, load_task, read_dataset, revision, warn_of_unseen
from hf_elmix.text.study import collator_for, possible_padding
from hf_elmix.text.tasks import TextTask
from hf_elmix.training.class_weights import parse_class_weights
from hf_elmix.training.complement import trainer_for
from hf_elmix.training.resumable import CheckedResume, check_weights, is_half_written
from hf_elmix.training.whole_evaluation import with_whole_evaluation

__all__ = ["finetune"]

SUFFIXES = ("", "_mm")  # of metrics on the first and on the second evaluation set, as in run_glue
# Files that would be replaced, whoever wrote them.
WRITTEN = (
    *("all_results.json", "config.json", "README.md", "model.safetensors", "tokenizer.json"),
    *("train_results.json", "eval_results.json", "predict_results.json", "trainer_state.json", "training_args.bin"),
)
# Training arguments that the model card mentions elsewhere.
MENTIONED = ("loss", "mixing", "seed")


def finetune(data: DataArguments, model: ModelArguments, args: FinetuneArguments) -> int:
    """Fine-tune on one task, evaluate and predict, and write run_glue's files to the output folder.

    Args:
        data: Which rows, and how many.
        model: Where to start from.
        args: How to train; as from `glue_runs.flags.parse`, which checks them, too.

    Returns:
        The exit code, 0.

    Raises:
        UsageError: If an argument, the data or the model cannot be used.
    """
    if args.precision is not None and args.process_index == 0:
        print(args.precision_note)
    hub = _hub_target(args)
    _check_output(args, Path(model.model_name_or_path))
    checkpoint = find_checkpoint(args)
    find = cache(partial(find_model, model.model_name_or_path, model.model_revision, code=model.trust_remote_code))
    task, rows = _rows(data, args, find)
    _check_task(task, rows, args)  # before a model is downloaded
    source = find()
    if not args.do_train:
        _classes_of(source)
    task, rows = for_model(load_config(source), task, rows, trains=args.do_train)
    warn_of_unseen(task, rows)
    args.run_name = args.run_name or f"{task.name} {(args.loss or '').removeprefix('mix:')} seed {args.seed}"
    kept = settings_callback(checkpoint, data, args, source, task, rows)
    changes = kept.settings["continued"]
    facts = partial(_facts, data, args, source, task, rows, changes)
    if args.process_index == 0:
        print("\n".join(map(printable, [_summary(task, rows), *changes])))
        if hub is not None:
            hub["repo_id"] = claim_repo(mark=model_mark(facts({})), **hub)
    tokenizer = load_tokenizer(source)
    tokens, data.max_seq_length = tokens_for(source, tokenizer, task, rows, data.max_seq_length)
    data.padding = possible_padding(data.padding, source, tokenizer, args.torch_compile)
    options = {"ignore_mismatched_sizes": model.ignore_mismatched_sizes, "trained": not args.do_train}
    network = load_model(source, task, args.seed, **options)
    collator = collator_for(tokenizer, data.padding, data.max_seq_length)
    check_model(network, tokens, collator)
    if data.padding == "free":
        drop_padding(network)
    trainer = _trainer(args, task, tokens, model=network, processing_class=tokenizer, data_collator=collator)
    trainer.add_callback(kept)
    with _on_disk(trainer):
        if args.do_train:
            _train(trainer, checkpoint, len(tokens["train"]))
        metrics = _evaluate(trainer, task, tokens) if args.do_eval else {}
        if args.do_predict:
            _predict(trainer, task, tokens)
    if args.do_train and trainer.is_world_process_zero():
        _describe(Path(args.output_dir or ""), replace(facts(metrics), steps=trainer.state.global_step), hub)
    return 0


def _describe(folder: Path, card: ModelFacts, hub: dict[str, Any] | None) -> None:
    """Write the model card, and publish the model if there is where to."""
    if hub is None:
        write_model_card(folder, card, folder.name)
        return
    card = licensed(card)
    write_model_card(folder, card, hub["repo_id"])
    print(publish_files(files_of_model(folder.resolve()), mark=model_mark(card), **hub))


def _hub_target(args: FinetuneArguments) -> dict[str, Any] | None:
    """Switch uploads by the Trainer off, and return where to publish the model, as arguments of `claim_repo`.

    At every save the Trainer would upload the pickle of its arguments, with the token in it.
    """
    name = args.hub_model_id or Path(args.output_dir or "").resolve().name
    hub = {"repo_id": name, "private": args.hub_private_repo, "token": args.hub_token} if args.push_to_hub else None
    args.push_to_hub, args.hub_token = False, None
    if hub is not None and not args.do_train:
        raise UsageError("--push_to_hub publishes the model that was trained. Add --do_train.")
    return hub


def _check_output(args: FinetuneArguments, model: Path) -> None:
    """Refuse to overwrite a model, or the results or checkpoints of an earlier run."""
    output_dir = Path(args.output_dir or "")
    given = args.resume_from_checkpoint
    # A run that continues from a checkpoint in its folder replaces the files there.
    continues = given is not None and (given in LAST or Path(given).resolve().is_relative_to(output_dir.resolve()))
    if continues or not output_dir.exists():
        return
    reads_it = not args.do_train and model.resolve() == output_dir.resolve()
    held = [name for name in WRITTEN if (output_dir / name).exists()]
    if held and not reads_it:
        raise UsageError(
            f"{args.output_dir} holds a model or a finished run ({held[0]}). Choose another --output_dir or delete it."
        )
    if args.do_train and given is None and get_last_checkpoint(str(output_dir)) is not None:
        raise UsageError(
            f"{args.output_dir} holds checkpoints of an unfinished run. Continue from the last with "
            "--resume_from_checkpoint last, choose another --output_dir, or delete it."
        )


def _rows(
    data: DataArguments, args: FinetuneArguments, find: Callable[[], ModelSource]
) -> tuple[TextTask, DatasetDict]:
    """The task and the splits that are used; the classes are those of the model only if it is not trained."""
    name, rows = ("", DatasetDict()) if data.task_name else _read(data)
    task = None if data.task_name is None else find_task(data.task_name.lower(), GLUE_TASKS)
    splits = task.splits if task else find_splits(rows, data.validation_split_name)
    test_splits = task.test_splits if task else find_splits(rows, data.test_split_name, test=True)
    limits = {
        **({"train": data.max_train_samples} if args.do_train else {}),
        **(dict.fromkeys(splits, data.max_eval_samples) if args.do_eval else {}),
        **(dict.fromkeys(test_splits, data.max_predict_samples) if args.do_predict else {}),
    }
    if task is not None:
        rows = load_task(
            task,
            data.dataset_name or GLUE,
            splits=limits,
            max_train_samples=data.max_train_samples,
            max_eval_samples=data.max_eval_samples,
            max_predict_samples=data.max_predict_samples,
        )
    else:
        task, rows = custom_task(
            rows,
            name,
            splits=splits,
            test_splits=test_splits,
            limits=limits,
            text_columns=data.text_column_names,
            text_delimiter=data.text_column_delimiter,
            label_column=data.label_column_name,
            labels=None if args.do_train else _classes_of(find()),
        )
    if data.metric_name is not None:
        task = replace(task, metrics=(check_metric(task, data.metric_name),))
    return task, rows


def _classes_of(source: ModelSource) -> tuple[str, ...]:
    """The classes of a model that is not trained here, and so must have been."""
    classes = model_classes(load_config(source))
    if classes is None:
        raise UsageError(
            f"Expected a model that was trained as a classifier, but {source.name} was not. Add --do_train, or name a "
            "fine-tuned one with --model_name_or_path."
        )
    return classes


def _read(data: DataArguments) -> tuple[str, DatasetDict]:
    """What to call rows outside GLUE, and all of them, with the split to train on as ``train``."""
    if data.files:
        name, rows = Path(next(iter(data.files.values()))).stem, read_files(data.files)
    else:
        folder = data.dataset_name or ""
        name, rows = Path(folder).expanduser().resolve().name, read_dataset(folder, data.dataset_config_name)
    if data.train_split_name is not None:
        rows["train"] = first_rows(rows, data.train_split_name, None, name)
    if data.shuffle_train_dataset and "train" in rows:
        rows["train"] = rows["train"].shuffle(data.shuffle_seed)
    return name, rows


def _check_task(task: TextTask, rows: DatasetDict, args: FinetuneArguments) -> None:
    """Refuse a loss or a metric that the task does not have, and too few rows for a batch or a metric."""
    if task.regression and args.loss != STOCK:
        raise UsageError(
            f"{task.name} is a regression, and the mixed loss is for classes. Add --mixing {STOCK} for the stock loss."
        )
    parse_class_weights(args.class_weights, rows.get("train"), "label", len(task.labels))
    batch = args.train_batch_size * args.world_size
    if args.do_train and args.dataloader_drop_last and len(rows["train"]) < batch:
        raise UsageError(
            f"Expected {batch} training rows or more for a whole batch, but got {len(rows['train'])}. Leave "
            "--dataloader_drop_last out, or type a smaller --per_device_train_batch_size."
        )
    name = args.metric_for_best_model
    elmix = ["loss_el"] if args.loss != STOCK else []
    known = ("loss", *elmix, *([COMBINED] if task.metrics in PAIRS else []), *task.metrics)
    if name is not None and name.removeprefix("eval_") not in known:
        raise not_one_of("--metric_for_best_model", known, name)
    measured = [split for split in rows if split != "train" and "label" in rows[split].column_names]
    single = next((split for split in measured if len(rows[split]) < LEAST.get(task.metrics[0], 1)), None)
    if single is not None:
        raise UsageError(f"Expected 2 or more rows in the split {single!r}, since one has no correlation, but got 1.")


def _summary(task: TextTask, rows: DatasetDict) -> str:
    """The rows in one line, which shows a wrong column before anything is trained."""
    counts = ", ".join(f"{len(part)} {split}" for split, part in rows.items())
    labels = "a number" if task.regression else ", ".join(task.labels[:10]) + (" ..." if task.labels[10:] else "")
    return f"{task.name}: {counts} rows; text from {' and '.join(task.columns)}; label: {labels}"


class StockTrainer(CheckedResume, Trainer):
    """The Trainer with the model's own loss."""


def _trainer(args: FinetuneArguments, task: TextTask, tokens: DatasetDict, **parts: Any) -> Trainer:
    """The Trainer, which chooses the best epoch on the first evaluation split alone, as run_glue does."""
    kind = with_whole_evaluation(StockTrainer if args.loss == STOCK else trainer_for(parse_loss(args.loss)))
    try:
        return kind(
            args=args,
            train_dataset=tokens.get("train"),
            eval_dataset=tokens.get(task.splits[0]),
            compute_metrics=with_combined_score(task),
            preprocess_logits_for_metrics=predicted_values if task.regression else predicted_classes,
            **parts,
        )
    except (ValueError, ImportError) as error:  # such as a tracker that does not exist or is not installed
        raise UsageError(in_one_line(error)) from error


@contextmanager
def _on_disk(trainer: Trainer) -> Iterator[None]:
    """Say so if the disk fails, and remove the checkpoint that was being written; the others stay."""
    folder = Path(trainer.args.output_dir or "")
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    try:
        with naming_storage_faults(there, folder):
            yield
    except StorageError:
        checkpoint = folder / f"checkpoint-{trainer.state.global_step}"
        if is_half_written(checkpoint):
            shutil.rmtree(checkpoint, ignore_errors=True)
        raise


def _train(trainer: Trainer, checkpoint: str | None, rows: int) -> None:
    if checkpoint is not None and not (trainer.args.deepspeed or trainer.args.fsdp):
        check_weights(Path(checkpoint), trainer.accelerator.unwrap_model(trainer.model))
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    _save(trainer, "train", {**result.metrics, "train_samples": rows})
    trainer.save_state()


def _evaluate(trainer: Trainer, task: TextTask, tokens: DatasetDict) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for split, suffix in zip(task.splits, SUFFIXES, strict=False):
        scores = {**trainer.evaluate(tokens[split]), "eval_samples": len(tokens[split])}
        metrics |= {name + suffix: value for name, value in scores.items()}
    _save(trainer, "eval", metrics)
    return metrics


def _predict(trainer: Trainer, task: TextTask, tokens: DatasetDict) -> None:
    """Write a line with the predicted class or number of each row, and the metrics if the labels are known."""
    for split, suffix in zip(task.test_splits, SUFFIXES, strict=False):
        output = trainer.predict(tokens[split], metric_key_prefix="predict")
        if "label" in tokens[split].column_names:
            metrics = {**(output.metrics or {}), "predict_samples": len(tokens[split])}
            _save(trainer, "predict", {name + suffix: value for name, value in metrics.items()})
        if trainer.is_world_process_zero():
            lines = ["index\tprediction"]
            for index, value in enumerate(as_rows(output.predictions)):
                shown = format(value, "3.3f") if task.regression else " ".join(task.labels[value].split())
                lines.append(f"{index}\t{shown}")
            path = Path(trainer.args.output_dir or "", f"predict_results_{task.name}{suffix.replace('_', '-')}.txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(UPath(path), "\n".join([*lines, ""]).encode())


def _save(trainer: Trainer, split: str, metrics: dict[str, Any]) -> None:
    trainer.log_metrics(split, metrics)
    trainer.save_metrics(split, metrics)


def _facts(
    data: DataArguments,
    args: FinetuneArguments,
    source: ModelSource,
    task: TextTask,
    rows: DatasetDict,
    changes: Sequence[str],
    metrics: Mapping[str, float],
) -> ModelFacts:
    """What the model card says about the run; before the evaluation there are no metrics."""
    known = {field.name: field.default for field in fields(args) if field.default is not MISSING}
    changed = {name: getattr(args, name) for name, default in known.items() if getattr(args, name) != default}
    listed = {
        name: value
        for name, value in changed.items()
        if affects_training(name) and name not in MENTIONED and isinstance(value, str | int | float | bool)
    }
    settings = {
        "text": task.to_settings(),
        "model": source.name,
        "dataset": next(iter(data.files.values()), data.dataset_name or GLUE),
        "config": task.name if data.task_name else data.dataset_config_name,
        "loss": None if args.loss == STOCK else args.loss,
        "max_length": data.max_seq_length,
        "padding": data.padding,
        "max_train_samples": data.max_train_samples,
        "max_eval_samples": data.max_eval_samples,
        "arguments": {**{name: getattr(args, name) for name in ARGUMENTS}, **listed},
    }
    provenance = {
        **software(),
        "model_revision": source.revision,
        "data_revision": revision(next(iter(rows.values()))),
        "data_rows": {split: len(part) for split, part in rows.items()},
        "device": str(args.device),
    }
    scores = []
    for split, suffix in zip(task.splits, SUFFIXES, strict=False):
        on_split = {name.removesuffix(suffix): value for name, value in metrics.items() if name.endswith(suffix)}
        scores += scores_on(split, task.metrics, on_split)
    return ModelFacts(task.name, args.seed, settings, provenance, scores, changes=changes)
