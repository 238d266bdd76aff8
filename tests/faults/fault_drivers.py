"""What runs in the processes of the fault tests: the command line with a toy study, and the faults themselves.

Starting Python and importing PyTorch takes seconds. Most drivers here are therefore forked from a fork server that has
everything imported: the very `main` of the command line, in a process of its own. Its workers come from the same
server, and have, like those of the command line, nothing of their parent but what they are sent.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import signal
import sys
import types
from collections.abc import Callable
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, EvalPrediction

from glue_runs import __main__ as command_line
from hf_elmix.study.executors import local as workers_module
from hf_elmix.study.spec import Method, Study, Task, TrainerInputs

PRELOAD = ["pytest", "fault_drivers", "hf_elmix.study.grid", "hf_elmix.study.runner", "hf_elmix.study.status"]

STEPS = 20
METHODS = ("ce", "0", "0,0.5", "0-0.5")
TASKS, SEEDS = ("toy",), (3, 4)

TINY = {
    **{"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"intermediate_size": 32, "max_position_embeddings": 16},
}
ARGUMENTS = {
    **{"max_steps": STEPS, "per_device_train_batch_size": 4, "learning_rate": 5e-3, "use_cpu": True},
    **{"logging_strategy": "steps", "logging_steps": 3},
}


class Fault:
    """Goes off in the training step it is told, as often as it is told, in whatever process that is.

    Args:
        kind: What happens, a key of `FAULTS`.
        task: The task it happens to.
        seed: The seed it happens with.
        call: The call of the model in training, within one segment, that it happens before.
        fired: A folder of tokens, one for each time.
    """

    def __init__(self, kind: str, task: str, seed: int, call: int, fired: str) -> None:
        self.kind, self.task, self.seed, self.call, self.fired = kind, task, seed, call, Path(fired)
        self.calls = 0

    def __call__(self, model: BertForSequenceClassification, inputs: Any) -> None:
        self.calls += model.training
        if model.training and self.calls == self.call and _fires(self.fired):
            FAULTS[self.kind]()


def _fires(fired: Path) -> bool:
    """Whether it is time for a fault; one of the tokens that stand for the times it may be is used up."""
    for token in sorted(fired.iterdir()):
        try:
            token.unlink()
        except FileNotFoundError:  # another process was faster
            continue
        return not token.name.endswith("skip")
    return False


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _run_out_of_memory() -> None:
    raise MemoryError("none left, for the test")


def _run_out_of_gpu_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB, for the test")


class Finalized:
    """Is told to leave while it is collected, where Python drops what a signal's handler raises."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


FAULTS: dict[str, Callable[[], None]] = {
    "die": _die,
    "leave": lambda: Finalized() and None,
    "memory": _run_out_of_memory,
    "gpu memory": _run_out_of_gpu_memory,
}


def inputs(seed: int, fault: dict[str, Any] | None = None) -> TrainerInputs:
    torch.manual_seed(seed)
    model = BertForSequenceClassification(BertConfig(**TINY))
    if fault is not None and fault["seed"] == seed:
        model.register_forward_pre_hook(Fault(**fault))
    trainer = {
        **{"model": model, "train_dataset": _rows(40, 1), "eval_dataset": _rows(17, 2)},
        "compute_metrics": _accuracy,
    }
    return TrainerInputs(trainer, {"data_rows": {"train": 40}})


def _rows(count: int, seed: int) -> Dataset:
    generator = np.random.default_rng(seed)
    columns = {"input_ids": generator.integers(1, 60, (count, 6)), "labels": generator.integers(0, 2, count)}
    return Dataset.from_dict({name: column.tolist() for name, column in columns.items()})


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def toy_study(fault: dict[str, Any] | None = None) -> Study:
    """The same whatever the command line says: one task, four methods, two seeds, 20 steps each."""

    def of(name: str) -> Callable[[int], TrainerInputs]:
        return partial(inputs, fault=fault) if fault is not None and fault["task"] == name else inputs

    parts = tuple(Task(name, "accuracy", of(name), {"rows": "random"}) for name in TASKS)
    return Study(parts, tuple(Method(name) for name in METHODS), SEEDS, ARGUMENTS)


def command(
    words: list[str],
    log: str,
    pids: str,
    fault: dict[str, Any] | None = None,
    crash: tuple[str, int] | None = None,
) -> None:
    """Be `glue-runs` with these words, doing the toy study where they ask for a study of no dataset.

    Args:
        words: The words of the command line.
        log: Where standard output and error go.
        pids: File that each process adds itself to.
        fault: What goes wrong in a training step: the arguments of `Fault`.
        crash: Be killed when about to change something in the output folder: what, as a pattern, and for which time.
    """
    gc.freeze()  # as workers do; what the server has imported need not be looked through before each training
    os.setsid()
    _begin(log, pids)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "--dataset_name" not in words:
        sys.modules["glue_runs.study"] = _tasks(lambda *args, **kwargs: toy_study(fault))
    workers_module.multiprocessing = _forked_workers(log, pids)
    if crash is not None:
        _crash_before(*crash, words[words.index("--output_dir") + 1])
    sys.exit(command_line.main(words))


def _tasks(glue_study: Callable[..., Study]) -> types.ModuleType:
    module = types.ModuleType("glue_runs.study")
    module.__dict__["glue_study"] = glue_study
    return module


def _begin(log: str, pids: str) -> None:
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for number in (1, 2):
        os.dup2(out, number)
    os.close(out)
    with open(pids, "a") as file:
        file.write(f"{os.getpid()}\n")


def _forked_workers(log: str, pids: str) -> Any:
    """What stands in for `multiprocessing` where workers are started."""
    context = multiprocessing.get_context("forkserver")
    forkserver._forkserver.ensure_running = lambda: None  # the one that this process comes from; else a second starts

    def process(target: Callable[..., None], args: tuple[Any, ...], daemon: bool) -> Any:
        return context.Process(target=_work, args=(log, pids, target, args), daemon=daemon)

    stand_in = types.SimpleNamespace(Pipe=context.Pipe, Process=process)
    return types.SimpleNamespace(get_context=lambda method: stand_in)


def _work(log: str, pids: str, target: Callable[..., None], args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # A worker of the command line is born deaf to it.
    _begin(log, pids)
    target(*args)


CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


def _crash_before(pattern: str, count: int, folder: str) -> None:
    """Kill this process when it is about to change something below a folder for the `count`-th time.

    Args:
        pattern: What counts, matched with words such as ``os.rename FROM TO``, paths relative to the folder.
        count: How often it may be about to.
        folder: The folder.
    """
    left = [count]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)):
            paths = [str(arg) for arg in args if isinstance(arg, str) or hasattr(arg, "parts")]
            # A tree is removed by names that are relative to its folders.
            if not paths or (paths[0].startswith(("/", ".")) and not paths[0].startswith(folder)):
                return
            if re.search(pattern, " ".join([event, *(path.removeprefix(folder) for path in paths)])):
                left[0] -= 1
                if left[0] == 0:
                    _die()

    sys.addaudithook(hook)


def tokens(folder: Path, times: int, skip: int) -> str:
    """A folder of tokens, for a fault to go off `times` times after it has not done so `skip` times."""
    folder.mkdir()
    for number in range(skip + times):
        (folder / f"{number}{'skip' if number < skip else ''}").touch()
    return str(folder)
