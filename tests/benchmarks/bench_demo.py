"""The demo as a user runs it: how long it takes, its scores, and how many rows are memorised.

    python tests/benchmarks/bench_demo.py           # on an idle machine
    python tests/benchmarks/bench_demo.py --keep    # and update the scores and figures of the documentation

Chance is the share of the largest class among the evaluation rows.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from glue_runs.demo import SCORED_KINDS
from glue_runs.tasks import TASKS
from hf_elmix.text.tasks import TextTask

PAGES = Path(__file__).parents[2] / "hf_elmix" / "docs" / "pages"
FIGURES = ("profile", "differences", "ranks")


def run_demo(folder: Path) -> str:
    """Run the demo, print how long it took, and return its output."""
    load, start = os.getloadavg()[0], time.perf_counter()
    command = [sys.executable, "-m", "glue_runs", "demo", "--output_dir", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, work = time.perf_counter() - start, spent.ru_utime + spent.ru_stime
    cores = len(os.sched_getaffinity(0))
    print(f"{seconds:.1f} s on {cores} cores, {work:.1f} s of processor time; load before the start: {load:.2f}\n")
    return done.stdout


def chance(folder: Path, task: TextTask) -> float:
    """The share of the largest class among the evaluation rows of a task."""
    (path,) = (folder / "rows" / task.name).glob(f"{task.splits[0]}-*.parquet")
    return float(pd.read_parquet(path)["label"].value_counts(normalize=True).max())


def summary(folder: Path, runs_df: pd.DataFrame) -> pd.DataFrame:
    """For each task: chance, the scores over all runs, and the standard deviation over the seeds of a loss."""
    by_method = runs_df.groupby(["task", "method"])["score"]
    columns = {
        "chance": {name: chance(folder, task) for name, task in TASKS.items()},
        "score": runs_df.groupby("task")["score"].mean(),
        "lowest": runs_df.groupby("task")["score"].min(),
        "highest": runs_df.groupby("task")["score"].max(),
        "sd over seeds": by_method.std().groupby("task").mean(),
    }
    return pd.DataFrame(columns)


def keep(runs_df: pd.DataFrame, report: Path) -> None:
    """Copy the figures and their numbers into the documentation."""
    for name in FIGURES:
        shutil.copy(report / "figures" / f"{name}.png", PAGES / "figures" / f"{name}.png")
    named = runs_df.rename(columns={f"train_{kind}_accuracy": kind for kind in SCORED_KINDS})
    named[["task", "seed", "method", "score", *SCORED_KINDS]].to_csv(PAGES / "demo.csv", index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="update the scores and figures of the documentation")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "demo"
        print(run_demo(folder))
        runs_df = pd.read_csv(folder / "report" / "data" / "runs.csv", dtype={"method": str})
        print(summary(folder, runs_df).map("{:.3f}".format).to_string())
        if args.keep:
            keep(runs_df, folder / "report")


if __name__ == "__main__":
    main()
