"""One run: build a Trainer, train, score, and say what it took. The only module of the engine that trains."""

from __future__ import annotations

import math
import platform
import subprocess
import time
import traceback
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from hf_elmix.study.spec import Materials, Method, RunKey, RunRecord, Study
from hf_elmix.study.workers import Progress
from hf_elmix.trainer import MixedLossTrainer

__all__ = ["run_one", "scores_of"]


PACKAGES = ("hf-elmix", "torch", "transformers", "accelerate", "datasets", "tokenizers")
SPEED = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
TRAINING = ("step", "epoch", "loss", "loss_ce", "loss_el", "alpha", "beta", "focus", "learning_rate", "grad_norm")


def run_one(study: Study, key: RunKey, folder: str | Path, progress: Progress) -> RunRecord:
    """Train and score one run of a study.

    Args:
        study: The study.
        key: Which run.
        folder: Where the Trainer may write.
        progress: Called after every optimizer step.

    Returns:
        Its record. An error while it trains ends in a record too, with status ``failed``.
    """
    problem, method = study.runs()[key]
    settings, start = study.settings(problem, method), time.perf_counter()
    provenance, counter = software(), _StepCallback(progress)
    try:
        materials = problem.materials(key.seed)
        trainer = _trainer(materials, method, {**settings["arguments"], "seed": key.seed, "output_dir": str(folder)})
        trainer.add_callback(counter)
        trainer.train()
    except Exception as error:  # Whatever goes wrong is the run's result; the other runs go on.
        text = f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-3)}"
        return RunRecord(key, "failed", {}, [], settings, provenance, _cost(start, counter.steps), text)
    history = trainer.state.log_history
    scores = scores_of(history)
    if problem.score not in scores:
        text = f"UsageError: Expected the evaluation to give {problem.score!r}, but it gives {', '.join(scores)}."
        return RunRecord(key, "failed", scores, [], settings, provenance, _cost(start, counter.steps), text)
    return RunRecord(
        key,
        status="done" if _finite(history) else "diverged",
        scores=scores,
        training=[_only(log, TRAINING) for log in history if "loss" in log],
        settings=settings,
        provenance={**provenance, **materials.provenance, "device": _device(trainer.args.device)},
        cost=_cost(start, counter.steps),
    )


def scores_of(history: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Scores by metric from a Trainer's log history.

    Args:
        history: `trainer.state.log_history`; evaluations on several datasets at one step are read together.

    Returns:
        ``{metric: {"last": x, "best": x, "epochs": [x, ...]}}``; the best loss is the smallest, else the largest.
    """
    by_step: dict[int, dict[str, float]] = {}
    for log in history:
        values = {name.removeprefix("eval_"): value for name, value in log.items() if name.startswith("eval_")}
        by_step.setdefault(log["step"], {}).update(values)
    names = {name for values in by_step.values() for name in values if not name.endswith(SPEED)}
    series = {name: [values[name] for values in by_step.values() if name in values] for name in sorted(names)}
    return {
        name: {"last": values[-1], "best": (min if "loss" in name else max)(values), "epochs": values}
        for name, values in series.items()
    }


@cache
def software() -> dict[str, Any]:
    """Versions, commit and machine of this process."""
    status = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "threads": torch.get_num_threads(),
    }


def _trainer(materials: Materials, method: Method, arguments: Mapping[str, Any]) -> MixedLossTrainer:
    quiet = {"disable_tqdm": True, "log_level": "error", "report_to": "none"}
    defaults = {"eval_strategy": "epoch", "logging_strategy": "epoch", "save_strategy": SaveStrategy.NO}
    device = {"dataloader_pin_memory": torch.cuda.is_available()}
    args = TrainingArguments(**{**quiet, **defaults, **device, **arguments})
    trainer = MixedLossTrainer(args=args, mixing=method.schedule, **materials.trainer)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _cost(start: float, steps: int) -> dict[str, Any]:
    return {"seconds": round(time.perf_counter() - start, 3), "steps_trained": steps, "steps_inherited": 0}


class _StepCallback(TrainerCallback):
    """Counts optimizer steps, and says so."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.steps = progress, 0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.steps += 1
        self.progress(state.global_step, state.max_steps)


def _finite(history: Iterable[Mapping[str, Any]]) -> bool:
    losses = [value for log in history for name, value in log.items() if "loss" in name]
    return all(math.isfinite(loss) for loss in losses)


def _only(log: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: log[name] for name in names if name in log}


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.machine()}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*words: str) -> str | None:
    """What git says of the checkout this file is in, or None where it is in none."""
    command = ["git", "-C", str(Path(__file__).parent), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
