"""The flags of `transformers.TrainingArguments`, and whether their values can work, which imports PyTorch."""

from __future__ import annotations

import copy
import math
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from transformers.hf_argparser import HfArgumentParser

from hf_elmix.cli.base import OneLineParser, check_installed, name_of_flag
from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.losses.registry import parse_loss
from hf_elmix.study.spec import MAX_SEED, TRACKERS

if TYPE_CHECKING:
    from transformers import TrainingArguments

__all__ = ["BOUNDS", "FlagParser", "check_bounds", "check_training", "training_arguments"]

# The range of each number, as an interval. Values below 1 of STEPS are a share of all steps, others a whole number.
COUNT, STEPS = "[1, 1000000000]", "(0, 1000000000]"
SEED = f"[0, {MAX_SEED}]"
BOUNDS = {
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), COUNT),
    **dict.fromkeys(("gradient_accumulation_steps", "eval_accumulation_steps", "torch_empty_cache_steps"), COUNT),
    **dict.fromkeys(("max_steps", "save_total_limit"), COUNT),
    **dict.fromkeys(("max_train_samples", "max_eval_samples", "max_predict_samples"), COUNT),
    **dict.fromkeys(("logging_steps", "eval_steps", "save_steps"), STEPS),
    "warmup_steps": "[0, 1000000000]",
    "eval_delay": "[0, 1000000000]",
    "max_seq_length": "[1, 1000000]",
    "num_train_epochs": "(0, 1000000]",
    "learning_rate": "(0, 1000]",
    "weight_decay": "[0, 1000]",
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), "[0, 1)"),
    "adam_epsilon": "[1e-37, 1000]",  # what is smaller is 0 in single precision, and 0 / 0 is NaN
    "max_grad_norm": "[0, inf]",
    "neftune_noise_alpha": "[0, 1000]",
    **dict.fromkeys(("seed", "data_seed", "shuffle_seed"), SEED),
    "dataloader_num_workers": "[0, 1000]",
    "dataloader_prefetch_factor": "[1, 1000]",
    "ddp_bucket_cap_mb": "[1, 1000000]",
    "ddp_timeout": COUNT,
    "local_rank": "[0, 1000000]",
}
SHARES = ("logging_steps", "eval_steps", "save_steps", "warmup_steps")

Works = Callable[["TrainingArguments"], bool]

# Flags that have no effect with certain values of others: whether they have one, and what gives them one.
EFFECTS: dict[tuple[str, ...], tuple[Works, str]] = {
    ("num_train_epochs",): (lambda args: args.max_steps < 0, "no --max_steps"),
    ("eval_steps",): (lambda args: args.eval_strategy == "steps", "--eval_strategy steps"),
    ("eval_delay",): (lambda args: args.eval_strategy != "no", "--eval_strategy epoch or steps"),
    ("logging_steps",): (lambda args: args.logging_strategy == "steps", "--logging_strategy steps"),
    ("save_steps",): (lambda args: args.save_strategy == "steps", "--save_strategy steps"),
    ("save_total_limit", "save_only_model"): (
        lambda args: args.save_strategy != "no",
        "--save_strategy epoch or steps",
    ),
    ("warmup_steps",): (
        lambda args: args.lr_scheduler_type not in ("constant", "reduce_lr_on_plateau", "greedy"),
        "another --lr_scheduler_type, such as constant_with_warmup",
    ),
    ("lr_scheduler_kwargs",): (
        lambda args: args.lr_scheduler_type not in ("constant", "constant_with_warmup"),
        "another --lr_scheduler_type",
    ),
    ("adam_beta1", "adam_beta2", "adam_epsilon"): (lambda args: "adam" in args.optim, "an --optim with Adam"),
    ("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"): (
        lambda args: "trackio" in (args.report_to or ()),
        "--report_to trackio",
    ),
}


class FlagParser(OneLineParser, HfArgumentParser):
    """The parser of transformers, which makes flags of the fields of dataclasses, with one-line errors."""

    def __init__(self, kinds: Any, prog: str) -> None:
        super().__init__(kinds, prog=prog, allow_abbrev=False)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """See argparse. Numbers out of bounds are refused; a default may be out of bounds, where it means none."""
        parsed, rest = super().parse_known_args(args, namespace)
        check_bounds({name: value for name, value in vars(parsed).items() if value != self.get_default(name)})
        return parsed, rest


def training_arguments(
    words: Iterable[str], prog: str, defaults: Mapping[str, Any], losses: Iterable[str] = (), known: Iterable[str] = ()
) -> dict[str, Any]:
    """Parse flags of `TrainingArguments`, try their values, and return those that were given by name.

    Args:
        words: The flags.
        prog: Name of the command.
        defaults: Arguments that apply where no flag overrides them.
        losses: The losses that are trained with them.
        known: Other flags, one of which an unknown word may have been meant as.

    Raises:
        UsageError: If a flag is unknown or its value is not valid.
    """
    from transformers import TrainingArguments

    from hf_elmix.training.precision import has_accelerator

    words, parser = list(words), FlagParser(TrainingArguments, prog)
    parsed, unknown = parser.parse_known_args([*words, "--output_dir", "unused"])
    if unknown:
        parser.refuse(unknown[0], words, known)
    names = [name_of_flag(word) for word in words if word.startswith("--")]
    # A field that is true by default has a flag --no_NAME.
    fields = [name if hasattr(parsed, name) else name.removeprefix("no_") for name in names]
    arguments = {name: getattr(parsed, name) for name in fields}
    if "logging_steps" in arguments and defaults.get("logging_strategy") == "epoch":
        arguments.setdefault("logging_strategy", "steps")
    try:
        here = {"output_dir": "unused", "use_cpu": not has_accelerator()}
        args = TrainingArguments(**{**defaults, **here, **arguments})
    except Exception as error:  # libraries that it configures raise errors of any type
        raise UsageError(in_one_line(error)) from error
    check_training(args, arguments, losses)
    return arguments


def check_bounds(values: Mapping[str, Any]) -> None:
    """Refuse numbers with which training fails, does nothing or never ends.

    Args:
        values: Arguments by name.

    Raises:
        UsageError: If a number is outside its bounds.
    """
    for name, value in values.items():
        if name not in BOUNDS or not isinstance(value, int | float):
            continue
        least, most = BOUNDS[name][1:-1].split(", ")
        is_open, is_open_above = BOUNDS[name].startswith("("), BOUNDS[name].endswith(")")
        expected = ""
        if value != value:
            expected = "a number"
        elif value < float(least) or (is_open and value == float(least)):
            expected = f"more than {least}" if is_open else f"{least} or more"
        elif value > float(most) or (is_open_above and value == float(most)):
            expected = f"below {most}" if is_open_above else f"at most {most}"
        elif name in SHARES and value > 1 and value != int(value):
            expected = "below 1, a share of all steps, or whole"
        if expected:
            raise UsageError(f"Expected --{name} to be {expected}, but got {value}.")


def check_training(args: TrainingArguments, given: Iterable[str], losses: Iterable[str | None] = ()) -> None:
    """Refuse arguments with which the Trainer would fail, and those that it would ignore.

    Args:
        args: The finished arguments.
        given: Names of the arguments that were given rather than left at their defaults.
        losses: The losses that are trained with them.

    Raises:
        UsageError: If they cannot be used.
    """
    given = set(given)
    check_installed(name for name in args.report_to or () if name in TRACKERS)
    for names, (works, needs) in EFFECTS.items():
        ignored = [name for name in names if name in given]
        if ignored and not works(args):
            raise UsageError(f"--{ignored[0]} has no effect here: it needs {needs}. Leave it out.")
    for loss in losses if args.label_smoothing_factor else ():
        if not parse_loss(loss).at(0, 1).smooths:
            raise UsageError(f"--label_smoothing_factor cannot be applied to the loss {loss!r}. Leave one out.")
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            _rehearse(args, folder)
    except Exception as error:  # trackers, optimizers and loaders raise errors of any type
        raise UsageError(f"Expected arguments that the Trainer can use, but: {in_one_line(error)}") from error


def _rehearse(args: TrainingArguments, folder: str) -> None:
    """Make everything that these arguments configure for a very small model, and take a step with it."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, Trainer

    args = copy.copy(args)
    args.output_dir, args.push_to_hub, args.deepspeed = folder, False, None
    sizes: dict[str, Any] = {
        "hidden_size": 2,
        "intermediate_size": 2,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    model = BertForSequenceClassification(BertConfig(vocab_size=2, max_position_embeddings=2, **sizes))
    rows: Any = [{"input_ids": [0], "labels": 0}]
    trainer = Trainer(model, args, train_dataset=rows, eval_dataset=rows)
    trainer.get_train_dataloader()
    trainer.create_optimizer_and_scheduler(num_training_steps=10)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer: Any = trainer.optimizer
    optimizer.step()
    if args.lr_scheduler_type not in ("reduce_lr_on_plateau", "greedy"):  # these take a step with a score
        scheduler: Any = trainer.lr_scheduler
        scheduler.step()
    rates = [group["lr"] for group in optimizer.param_groups]
    numbers = [*rates, *(value for weight in model.parameters() for value in weight.flatten().tolist())]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a step with them ends in NaN or infinity")
