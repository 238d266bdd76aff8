"""Status, report and plan of large studies: python tests/benchmarks/bench_scale.py.

Prints seconds and peak memory of each command as it is typed, with all that Python loads. By default, there are 50,000
runs of 4 methods; `--tasks 10 --methods 1000 --seeds 3` has many methods.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd

from hf_elmix.losses.schedules import MixingSchedule, Phase
from hf_elmix.study.shared_prefixes import FINE, plan
from hf_elmix.study.spec import RunKey, RunRecord
from hf_elmix.study.store import RECORD, Store

EPOCHS = 6
FIRST = ("ce", "0", "0,0.5", "0-0.5")


def record(task: str, method: str, seed: int, rng: np.random.Generator) -> RunRecord:
    """A record as long as one of the GLUE study."""
    scores = {
        name: {"last": values[-1], "best": max(values), "epochs": values, "steps": [*range(EPOCHS)]}
        for name, values in zip(
            ("accuracy", "f1", "loss", "loss_el"), rng.uniform(size=(4, EPOCHS)).tolist(), strict=True
        )
    }
    log = {"loss": 0.5, "loss_ce": 0.4, "loss_el": 0.3, "alpha": 1.0, "beta": 1.0, "focus": 0.0, "learning_rate": 1e-5}
    training = [{"step": 10 * k, "epoch": float(k), **log, "grad_norm": 1.0} for k in range(1, EPOCHS + 1)]
    settings = {
        "loss": method,
        "select": {"metric": "accuracy"},
        "arguments": {"learning_rate": 2e-5},
        "rows": {"train": task},
    }
    cost = {"seconds": 1.0, "steps_trained": 60, "steps_inherited": 0}
    return RunRecord(RunKey(task, method, seed), "done", scores, training, settings, {"device": "cpu"}, cost)


def run(what: str, *words: str) -> None:
    """Print seconds and peak memory of a command."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "hf_elmix.cli.main", *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{what}: exit code {os.waitstatus_to_exitcode(status)}")
    processor = used.ru_utime + used.ru_stime
    size = used.ru_maxrss / 1024  # of kilobytes on Linux
    print(f"{what}: {seconds:.1f} s ({processor:.1f} s of a processor), {size:.0f} MB", flush=True)


def measure_plan(count: int) -> None:
    """Print how long it takes to plan schedules that part from the first, one after the other."""
    losses = {
        str(k): MixingSchedule((Phase(Fraction(0), 1, 0), Phase(Fraction(k, count + 1), 1, 1)))
        for k in range(1, count + 1)
    }
    start = time.perf_counter()
    segments = len(plan(losses, FINE))
    print(f"plan of {count} schedules: {time.perf_counter() - start:.2f} s, {segments} segments", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--methods", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=125)
    parser.add_argument("--folder", help="keep the records, and use those that are there (default: temporary)")
    args = parser.parse_args()
    measure_plan(args.methods)
    rng = np.random.default_rng(0)
    tasks = [f"task {k}" for k in range(args.tasks)]
    methods = [*FIRST, *(f"method {k}" for k in range(len(FIRST), args.methods))][: args.methods]
    keys = list(itertools.product(tasks, methods, range(args.seeds)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(args.folder or name)
        store = Store(folder / "runs")
        if not store.folder.exists():
            for key in keys:
                one = record(*key, rng)
                place = Path(store.folder_of(one.key))
                place.mkdir(parents=True)
                (place / RECORD).write_text(json.dumps(one.to_dict(), indent=1), encoding="utf-8")
            csv = pd.DataFrame(keys, columns=["task", "method", "seed"]).assign(score=rng.uniform(size=len(keys)))
            csv.to_csv(folder / "scores.csv", index=False)
        run(f"status of {len(keys)} runs", "status", str(folder / "runs"))
        for source in ("runs", "scores.csv"):
            run(f"report of {source}", "report", str(folder / source), "--output_dir", str(folder / "report"))
            size = (folder / "report" / "report.html").stat().st_size / 1e6
            print(f"  page of {size:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
