"""The runs of a table trained as one batched model, beside a loop of Trainers.

    python tests/benchmarks/bench_stacked.py                     # synthetic rows of the size of the median UCI table
    python tests/benchmarks/bench_stacked.py --data FOLDER --tables ecoli

Both train the runs of the paper's study of tables (7 losses, 3 learning rates, 4 seeds). The loop trains some of them,
and its time is scaled up to all. Each measure is then left out by itself.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from hf_elmix.study.executors.stacked import Stack, run_stack
from hf_elmix.study.runner import build_trainer
from hf_elmix.study.shared_prefixes import Branch
from hf_elmix.study.spec import Study
from hf_elmix.study.store import Store
from hf_elmix.tables.data import Table, read_tables
from hf_elmix.tables.protocol import LOSSES, SEEDS, SPLITS
from hf_elmix.tables.study import tables_study
from hf_elmix.training import stacked as stacked_models

SIZES = dict(zip(SPLITS, (372, 93, 186), strict=True))  # of the median table of UCI, with its features and classes
FEATURES, CLASSES = 16, 3


def synthetic() -> Table:
    rng = np.random.default_rng(0)
    features = {split: rng.normal(size=(size, FEATURES)).astype(np.float32) for split, size in SIZES.items()}
    labels = {split: rng.integers(CLASSES, size=size) for split, size in SIZES.items()}
    return Table("median", features, labels, CLASSES)


def seconds(function: Callable[[], object]) -> float:
    """Seconds of processor time, which other processes disturb least."""
    start = time.process_time()
    function()
    return time.process_time() - start


def train_stack(study: Study, most: int | None = None) -> None:
    """Train all runs in one stack, or in stacks of at most so many."""
    keys = list(study.runs())
    most = most or len(keys)
    for start in range(0, len(keys), most):
        part = keys[start : start + most]
        stack = Stack(tuple(Branch(key.task, key.seed, (key.method,), (key.method,)) for key in part))
        outcome = run_stack(study, Store("unused"), stack, lambda *_: None)
        assert {record.status for record in outcome.records} == {"done"}, outcome.records[0].error


def train_alone(study: Study, count: int) -> None:
    """Train some of the runs, each with its Trainer."""
    runs = list(study.runs().items())
    for key, (task, method) in runs[:: max(1, len(runs) // count)][:count]:
        with tempfile.TemporaryDirectory() as scratch:
            build_trainer(study, task, method, key.seed, Path(scratch))[0].train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of tables; by default, one table is drawn at random")
    parser.add_argument("--tables", nargs="+", default=[])
    parser.add_argument("--models", nargs="+", default=["linear", "hidden"])
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--trainers", type=int, default=2, help="runs in the loop of Trainers")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tables = read_tables(args.data, args.tables) if args.data else [synthetic()]
    for table in tables:
        for model in args.models:
            study = tables_study([table], SEEDS, LOSSES, model, {"num_train_epochs": args.epochs, "use_cpu": True})
            compare(study, f"{table.name}, {model}", args.trainers)


def compare(study: Study, name: str, count: int) -> None:
    """Print the time of a stack, and what each measure adds to it."""
    runs = len(study.runs())
    train_stack(study), train_alone(study, 1)  # imports, warm-up
    loop = seconds(partial(train_alone, study, count)) / count * runs
    whole = seconds(partial(train_stack, study))
    print(f"{name}: {runs} runs; a loop of Trainers {loop:.1f} s, a stack {whole:.2f} s: {loop / whole:.0f} times")
    with mock.patch.object(stacked_models, "TRACED_AFTER", 10**9):
        report("without tracing", seconds(partial(train_stack, study)), whole)
    with mock.patch.object(stacked_models, "stacking_key", lambda loss: loss):
        report("without joining the mixed losses", seconds(partial(train_stack, study)), whole)
    report("one stack for each seed", seconds(partial(train_stack, study, runs // len(study.seeds))), whole)


def report(what: str, took: float, whole: float) -> None:
    print(f"  {what:35} {took:6.2f} s, {took / whole:4.1f} times as long", flush=True)


if __name__ == "__main__":
    main()
