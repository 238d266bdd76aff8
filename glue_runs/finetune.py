"""One fine-tuning run with run_glue's flags, and ``--mixing`` or ``--loss``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, Trainer
from transformers.trainer_utils import get_last_checkpoint

from glue_runs.flags import STOCK, DataArguments, FinetuneArguments, parse
from glue_runs.metrics import COMBINED, compute_metrics_for, predicted_classes, predicted_values
from glue_runs.protocol import GLUE
from glue_runs.sharing import facts_of_run, share, take_hub
from glue_runs.study import collator_for, possible_padding
from glue_runs.tasks import GLUE_TASKS
from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.losses.registry import parse_loss
from hf_elmix.text.labels import in_order_of, named_labels
from hf_elmix.text.models import find_model, load_config, load_model, load_tokenizer
from hf_elmix.text.own_files import find_splits, own_task, read_files
from hf_elmix.text.padding_free import drop_padding
from hf_elmix.text.rows import find_task, load_task, read_dataset, tokenise
from hf_elmix.text.tasks import TextTask
from hf_elmix.training.complement import trainer_for

__all__ = ["finetune"]

LAST = ("true", "last")  # for --resume_from_checkpoint: the newest one in the output folder


def finetune(words: Sequence[str]) -> int:
    """Fine-tune on one task, evaluate and predict, and leave run_glue's files in the output folder.

    Args:
        words: The command line after ``finetune``.

    Returns:
        The exit code, 0.

    Raises:
        UsageError: If an argument, the data or the model cannot be used.
    """
    data, model, args = parse(words)
    hub = take_hub(args)
    _check_nothing_is_lost(args, Path(model.model_name_or_path))
    checkpoint = _checkpoint(args)
    source = find_model(model.model_name_or_path, model.model_revision, code=model.trust_remote_code)
    task, rows = _rows(data, args, load_config(source))
    _check_task(task, args)
    args.run_name = (
        args.run_name or f"{task.name} {(args.loss or '').removeprefix('mix:')} seed {args.seed}"
    )  # what trackers call it
    facts = partial(facts_of_run, data, args, source, task, rows)
    if args.process_index == 0:
        print(_about(task, rows))
        if hub is not None:
            hub.claim(facts({}))
    tokenizer = load_tokenizer(source)
    length = _length(data, tokenizer)
    tokens = tokenise(rows, task, tokenizer, length)
    padding = "longest" if args.torch_compile and data.padding == "free" else data.padding
    padding = possible_padding(padding, source, tokenizer)
    network = load_model(source, task, args.seed, ignore_mismatched_sizes=model.ignore_mismatched_sizes)
    if padding == "free":
        drop_padding(network)
    collator = collator_for(tokenizer, padding, length)
    trainer = _trainer(args, task, tokens, model=network, processing_class=tokenizer, data_collator=collator)
    if args.do_train:
        _train(trainer, checkpoint, len(tokens["train"]))
    metrics = _evaluate(trainer, task, tokens) if args.do_eval else {}
    if args.do_predict:
        _predict(trainer, task, tokens)
    if args.do_train and trainer.is_world_process_zero():
        share(args, facts(metrics), hub)
    return 0


def _rows(data: DataArguments, args: FinetuneArguments, config: PreTrainedConfig) -> tuple[TextTask, DatasetDict]:
    """The task and those of its splits that are used, with class ids in the order of the model's."""
    if data.task_name is not None:
        task = find_task(data.task_name.lower(), GLUE_TASKS)
        limits = {name: getattr(data, name) for name in ("max_train_samples", "max_eval_samples")}
        rows = load_task(
            task,
            data.dataset_name or GLUE,
            splits=_used(args, task.splits, task.test_splits),
            max_predict_samples=data.max_predict_samples,
            **limits,
        )
    else:
        task, rows = _own_rows(data, args, config)
    return in_order_of(config, task, rows)


def _own_rows(data: DataArguments, args: FinetuneArguments, config: PreTrainedConfig) -> tuple[TextTask, DatasetDict]:
    files = data.files
    name = (
        Path(next(iter(files.values()))).stem if files else Path(data.dataset_name or "").expanduser().resolve().name
    )
    rows = read_files(files) if files else read_dataset(data.dataset_name or "", data.dataset_config_name)
    splits = find_splits(rows, data.validation_split_name)
    test_splits = find_splits(rows, data.test_split_name, test=True)
    limits = {
        "train": data.max_train_samples,
        **dict.fromkeys(splits, data.max_eval_samples),
        **dict.fromkeys(test_splits, data.max_predict_samples),
    }
    return own_task(
        rows,
        name,
        splits=splits,
        test_splits=test_splits,
        limits={split: limits[split] for split in _used(args, splits, test_splits)},
        text_columns=tuple(filter(None, (data.text_column_names or "").split(","))),
        label_column=data.label_column_name,
        labels=named_labels(config),
    )


def _used(args: FinetuneArguments, splits: tuple[str, ...], test_splits: tuple[str, ...]) -> tuple[str, ...]:
    """The splits that the run needs."""
    train = ("train",) if args.do_train else ()
    return (*train, *(splits if args.do_eval else ()), *(test_splits if args.do_predict else ()))


def _check_task(task: TextTask, args: FinetuneArguments) -> None:
    """Refuse a loss or a metric that the task does not have."""
    if task.regression and args.loss != STOCK:
        raise UsageError(
            f"{task.name} is a regression, and the mixed loss is for classes. Add --mixing {STOCK} for the stock loss."
        )
    name = args.metric_for_best_model
    known = ("loss", "loss_el", COMBINED, *task.metrics)
    if name and name.removeprefix("eval_") not in known:
        raise UsageError(f"Expected --metric_for_best_model to be one of {', '.join(known)}, but got {name!r}.")


def _about(task: TextTask, rows: DatasetDict) -> str:
    """What is read, in one line: a wrong column is seen before anything is trained."""
    counts = ", ".join(f"{len(part)} {split}" for split, part in rows.items())
    labels = "a number" if task.regression else ", ".join(task.labels[:10]) + (" ..." if task.labels[10:] else "")
    return f"{task.name}: {counts} rows; text from {' and '.join(task.columns)}; label: {labels}"


def _length(data: DataArguments, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens a row is cut to: no more than the model can take."""
    if data.max_seq_length < 1:
        raise UsageError(f"Expected --max_seq_length to be 1 or more, but got {data.max_seq_length}.")
    return min(data.max_seq_length, tokenizer.model_max_length)


def _trainer(args: FinetuneArguments, task: TextTask, tokens: DatasetDict, **parts: Any) -> Trainer:
    """The Trainer; while it trains, the first evaluation split alone says which epoch is best, as in run_glue."""
    kind = Trainer if args.loss == STOCK else trainer_for(parse_loss(args.loss))
    try:
        return kind(
            args=args,
            train_dataset=tokens.get("train"),
            eval_dataset=tokens.get(task.splits[0]),
            compute_metrics=compute_metrics_for(task, combined=True),
            preprocess_logits_for_metrics=predicted_values if task.regression else predicted_classes,
            **parts,
        )
    except (ValueError, ImportError) as error:  # say, a tracker that does not exist or is not installed
        raise UsageError(in_one_line(error)) from error


def _train(trainer: Trainer, checkpoint: str | None, rows: int) -> None:
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    _save(trainer, "train", {**result.metrics, "train_samples": rows})
    trainer.save_state()


def _evaluate(trainer: Trainer, task: TextTask, tokens: DatasetDict) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for split, suffix in zip(task.splits, ("", "_mm"), strict=False):
        scores = {**trainer.evaluate(tokens[split]), "eval_samples": len(tokens[split])}
        metrics |= {name + suffix: value for name, value in scores.items()}
    _save(trainer, "eval", metrics)
    return metrics


def _predict(trainer: Trainer, task: TextTask, tokens: DatasetDict) -> None:
    """Write what is predicted for each row; where the labels are known, how right it is too."""
    for split, suffix in zip(task.test_splits, ("", "-mm"), strict=False):
        output = trainer.predict(tokens[split], metric_key_prefix="predict")
        if "label" in tokens[split].column_names:
            metrics = {**(output.metrics or {}), "predict_samples": len(tokens[split])}
            _save(trainer, "predict", {name + suffix.replace("-", "_"): value for name, value in metrics.items()})
        if trainer.is_world_process_zero():
            _write_predictions(
                Path(trainer.args.output_dir or "", f"predict_results_{task.name}{suffix}.txt"),
                np.asarray(output.predictions),
                task.labels,
            )


def _write_predictions(path: Path, predictions: np.ndarray, labels: Sequence[str]) -> None:
    """A line for each row: its index and what is predicted, the name of a class or a number."""
    lines = ["index\tprediction"]
    for index, value in enumerate(predictions):
        lines.append(f"{index}\t{' '.join(labels[value].split()) if labels else format(value, '3.3f')}")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.write_text("\n".join([*lines, ""]), encoding="utf-8")
    os.replace(draft, path)


def _save(trainer: Trainer, split: str, metrics: dict[str, Any]) -> None:
    trainer.log_metrics(split, metrics)
    trainer.save_metrics(split, metrics)


def _checkpoint(args: FinetuneArguments) -> str | None:
    """The checkpoint to go on from, if any.

    Raises:
        UsageError: If there is no such folder.
    """
    given = args.resume_from_checkpoint
    if given in LAST:
        last = get_last_checkpoint(args.output_dir) if os.path.isdir(args.output_dir or "") else None
        if last is None:
            raise UsageError(f"Expected a checkpoint in {args.output_dir!r} to go on from, but it has none.")
        return last
    if given is not None and not Path(given).is_dir():
        raise UsageError(f"Expected a folder, but --resume_from_checkpoint {given!r} is none.")
    return given


def _check_nothing_is_lost(args: FinetuneArguments, model: Path) -> None:
    """Refuse to write over a model, the results of an earlier run or its checkpoints."""
    output_dir = Path(args.output_dir or "")
    if output_dir.exists() and not output_dir.is_dir():
        raise UsageError(f"Expected --output_dir to be a folder, but {args.output_dir!r} is a file.")
    if args.resume_from_checkpoint is not None or not output_dir.exists():
        return
    uses_it = not args.do_train and model.resolve() == output_dir.resolve()
    held = [name for name in ("all_results.json", "config.json") if (output_dir / name).exists()]
    if held and not uses_it:
        raise UsageError(
            f"{args.output_dir} holds a model or a finished run ({held[0]}). Choose another --output_dir or delete it."
        )
    checkpoint = get_last_checkpoint(str(output_dir)) if args.do_train else None
    if checkpoint is not None:
        raise UsageError(
            f"{args.output_dir} holds checkpoints of an unfinished run. Go on from the last with "
            "--resume_from_checkpoint last, choose another --output_dir, or delete it."
        )
