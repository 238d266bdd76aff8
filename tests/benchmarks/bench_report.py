"""The report of a grid of 10,000 runs, from its records and from a CSV: python tests/benchmarks/bench_report.py."""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from hf_elmix.study.spec import RunKey, RunRecord
from hf_elmix.study.store import Store

METHODS = ("ce", "0", "0,0.5", "0-0.5")
EPOCHS = 6


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


def timed(words: list[str]) -> float:
    """Seconds of the command as it is typed, with all that Python loads."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "hf_elmix.cli.main", "report", *words], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=25)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    tasks = [f"task {k}" for k in range(args.tasks)]
    keys = list(itertools.product(tasks, METHODS, range(args.seeds)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store(folder / "runs")
        for key in keys:
            store.write(record(*key, rng))
        csv = pd.DataFrame(keys, columns=["task", "method", "seed"]).assign(score=rng.uniform(size=len(keys)))
        csv.to_csv(folder / "scores.csv", index=False)
        for source in ("runs", "scores.csv"):
            seconds = timed([str(folder / source), "--output_dir", str(folder / "report")])
            size = (folder / "report" / "report.html").stat().st_size / 1e6
            print(f"{len(keys)} runs from {source}: {seconds:.1f} s, page of {size:.1f} MB")


if __name__ == "__main__":
    main()
