from __future__ import annotations

import shlex
from typing import Any

import pytest

from glue_runs.__main__ import _parser, _training_arguments
from glue_runs.protocol import ARGUMENTS, BERT, GLUE, MIXINGS, SEEDS, TASK_NAMES
from glue_runs.remake import study_commands
from hf_elmix.losses.registry import parse_loss
from hf_elmix.study.spec import RunKey, RunRecord


def record(task: str, mixing: str, seed: int, arguments: dict[str, Any] | None = None, **settings: Any) -> RunRecord:
    made = {"model": BERT, "dataset": GLUE, "max_length": 64, "max_train_samples": None, "max_eval_samples": None}
    made |= {
        "arguments": {**ARGUMENTS, **(arguments or {})},
        "loss": str(parse_loss(mixing)),
        "rows": {"train": "abc"},
        **settings,
    }
    return RunRecord(RunKey(task, mixing, seed), "done", {}, [], made, {}, {})


def parsed(command: str) -> tuple[Any, dict[str, Any]]:
    program, *words = shlex.split(command)
    assert program == "glue-runs"
    args, rest = _parser().parse_known_args(words)
    return args, _training_arguments(rest)


def test_the_papers_grid_takes_no_flags_but_the_grid():
    records = [record(task, mixing, seed) for mixing in MIXINGS for seed in SEEDS for task in reversed(TASK_NAMES)]
    (command,) = study_commands(reversed(records), "my runs")
    grid = "--tasks cola sst2 mrpc qqp mnli qnli rte --seeds 0 1 2 3 --mixings ce 0 0,0.5 0-0.5"
    assert command == f"glue-runs study --output_dir 'my runs' {grid}"


@pytest.mark.parametrize(
    "arguments",
    [{}, {"learning_rate": 2e-4, "use_cpu": True, "weight_decay": 0.1}, {"warmup_steps": 10, "optim": "adafactor"}],
)
def test_the_command_says_what_the_records_do(arguments):
    settings = {"model": "a model", "dataset": "./rows", "max_length": 32, "max_train_samples": 512}
    made = [record("rte", mixing, seed, arguments, **settings) for mixing in ("0@0 0.5@0.5", "ce") for seed in (7, 3)]
    (command,) = study_commands(made, "runs")
    args, rest = parsed(command)
    assert (args.tasks, args.seeds, args.mixings) == (["rte"], [3, 7], ["ce", "0@0 0.5@0.5"])
    assert (args.model_name_or_path, args.dataset_name, args.output_dir) == ("a model", "./rows", "runs")
    assert (args.max_seq_length, args.max_train_samples, args.max_eval_samples) == (32, 512, None)
    assert rest == arguments


def test_runs_of_other_settings_are_another_command():
    commands = study_commands([record("rte", "ce", 0), record("cola", "ce", 0, max_length=128)], "runs")
    assert [shlex.split(command)[5] for command in commands] == ["rte", "cola"]
    assert commands[1].endswith("--max_seq_length 128")
    assert study_commands([], "runs") == []


def test_other_losses_are_asked_for_as_losses():
    made = [record("rte", loss, 0) for loss in ("ce", "focal:gamma=2,alpha=0.25")]
    (command,) = study_commands(made, "runs")
    assert "--losses ce focal:gamma=2,alpha=0.25" in command
    assert "--mixings" not in command
