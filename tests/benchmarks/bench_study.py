"""A study beside a plain loop of stock Trainers with run_glue's defaults.

    python tests/benchmarks/bench_study.py --dataset_name FOLDER_OR_ID --tasks cola mrpc sst2

The loop trains every regime from scratch in one process, each row padded to 64 tokens, and evaluates once an epoch.
The study then gets one improvement after the other, so that each rung shows what the last one contributes. The share
after each time is that of the machine's measured rate of matrix products, in the precision of the rung, that went into
tokens that are text. --profile says where the time of the last rung goes, by operation, in a process of one thread.
"""

from __future__ import annotations

import argparse
import cProfile
import functools
import itertools
import pstats
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

from glue_runs.protocol import ARGUMENTS, GLUE, MIXINGS
from glue_runs.study import glue_study
from glue_runs.tasks import find_task
from hf_elmix.machine import prepare_process, usable_cores
from hf_elmix.study.executors.local import Executor, run_in_process, run_in_workers
from hf_elmix.study.grid import run_grid
from hf_elmix.study.runner import run_branch
from hf_elmix.study.store import Store
from hf_elmix.text.metrics import compute_metrics_for
from hf_elmix.text.models import load_config, load_model, load_tokenizer
from hf_elmix.text.rows import load_task
from hf_elmix.text.tokens import tokenise
from hf_elmix.training.precision import KINDS, has_accelerator

LENGTH = 64

# Name of a rung, padding, whether prefixes are shared, whether there are workers, further training arguments.
RUNGS: list[tuple[str, str, bool, bool, dict[str, Any]]] = [
    ("the study, nothing shared, padded to 64", "max_length", False, False, {}),
    ("+ shared prefixes", "max_length", True, False, {}),
    ("+ padded to the batch's longest row", "longest", True, False, {}),
    ("+ no padding", "free", True, False, {}),
    ("+ workers", "free", True, True, {}),
    ("+ rows grouped by length (another order)", "free", True, True, {"train_sampling_strategy": "group_by_length"}),
]


def stock_loop(task: str, args: argparse.Namespace, arguments: dict[str, Any]) -> None:
    """Every regime from scratch with the stock Trainer; all cost the same, so the loss is its own."""
    glue, tokenizer = find_task(task), load_tokenizer(args.model_name_or_path)
    rows = load_task(glue, args.dataset_name, max_train_samples=args.rows, max_eval_samples=args.eval_rows)
    tokens = tokenise(rows, glue, tokenizer, LENGTH)
    for seed, _ in itertools.product(args.seeds, MIXINGS):
        with tempfile.TemporaryDirectory() as folder:
            quiet = {"disable_tqdm": True, "report_to": "none", "save_strategy": "no", "logging_strategy": "epoch"}
            device = {"dataloader_pin_memory": torch.cuda.is_available(), "eval_strategy": "epoch"}
            trainer = Trainer(
                model=load_model(args.model_name_or_path, glue, seed=seed),
                args=TrainingArguments(folder, seed=seed, **quiet, **device, **arguments),
                train_dataset=tokens["train"],
                eval_dataset=tokens[glue.splits[0]],
                data_collator=DataCollatorWithPadding(tokenizer, padding="max_length", max_length=LENGTH),
                compute_metrics=compute_metrics_for(glue),
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()


def study(task: str, args: argparse.Namespace, arguments: dict[str, Any], rung: int) -> None:
    """The same runs as a study, with the improvements of a rung."""
    _, padding, sharing, workers, more = RUNGS[rung]
    declared = glue_study(
        [task],
        args.seeds,
        model=args.model_name_or_path,
        dataset=args.dataset_name,
        max_length=LENGTH,
        max_train_samples=args.rows,
        max_eval_samples=args.eval_rows,
        arguments={**arguments, **more},
        padding=padding,
    )
    executor: Executor = functools.partial(run_in_workers, workers=args.workers) if workers else run_in_process
    with tempfile.TemporaryDirectory() as folder:
        counts = run_grid(declared, Store(folder), run_branch, executor=executor, sharing=sharing)
    assert counts == {"done": len(args.seeds) * len(MIXINGS)}, counts


def useful_work(task: str, args: argparse.Namespace, epochs: float) -> tuple[float, float]:
    """Floating-point operations that the runs cannot do without, and the share of tokens padded to 64 that are text.

    A multiply-add counts as two and the backward pass as two forward passes. A layer of width h has 4 h^2 weights of
    attention for each token, 8 h^2 behind it, and each token attends to those of its row; behind the last attention
    only the first token of a row is needed. Embeddings are looked up, and the head is small: both count as nothing.
    """
    glue = find_task(task)
    rows = load_task(glue, args.dataset_name, max_train_samples=args.rows, max_eval_samples=args.eval_rows)
    tokens = tokenise(rows, glue, load_tokenizer(args.model_name_or_path), LENGTH)
    config: Any = load_config(args.model_name_or_path)
    layers, width = config.num_hidden_layers, config.hidden_size

    def forward(split: str) -> float:
        lengths = [len(row) for row in tokens[split]["input_ids"]]
        behind = sum((layers - 1) * length + 1 for length in lengths) * 9 * width**2  # its output projection, too
        attention = sum(layers * (3 * width**2 * length + 2 * width * length**2) for length in lengths)
        return 2 * float(behind + attention)

    lengths = [len(row) for row in tokens["train"]["input_ids"]]
    operations = epochs * (3 * forward("train") + forward(glue.splits[0]))
    return len(args.seeds) * len(MIXINGS) * operations, sum(lengths) / (LENGTH * len(lengths))


def gemm_rate(dtype: torch.dtype, pause: float = 4.0) -> float:
    """Floating-point operations per second of matrix products with all threads: the best of some sizes, many times."""
    best, until = 0.0, time.perf_counter() + pause
    while time.perf_counter() < until:
        for rows, inner, columns in ((1024, 1024, 1024), (2048, 2048, 2048), (2048, 384, 1536), (512, 1536, 384)):
            a, b = torch.randn(rows, inner, dtype=dtype), torch.randn(inner, columns, dtype=dtype)
            took = min(seconds(lambda a=a, b=b: torch.mm(a, b)) for _ in range(5))  # type: ignore[misc]
            best = max(best, 2 * rows * inner * columns / took)
    return best


def profile(task: str, args: argparse.Namespace, arguments: dict[str, Any]) -> None:
    """Print where the time of the last rung without workers goes, by operation and by what the Trainer does."""
    rung = max(number for number in args.rungs if not RUNGS[number][3])
    calls = cProfile.Profile(time.process_time)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as operations:
        calls.runcall(study, task, args, arguments, rung)
    print(operations.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40))
    pstats.Stats(calls).sort_stats("cumulative").print_stats(60)


def seconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["cola", "mrpc", "sst2"])
    parser.add_argument("--dataset_name", default=GLUE)
    parser.add_argument("--model_name_or_path", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rows", type=int, default=192, help="training rows of each task")
    parser.add_argument("--eval_rows", type=int, default=96)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--rungs", type=int, nargs="+", default=list(range(len(RUNGS))))
    parser.add_argument("--precision", choices=KINDS, default="fp32")
    parser.add_argument("--profile", action="store_true", help="only say where the time goes, without the stock loop")
    args = parser.parse_args()
    prepare_process()
    arguments = {**ARGUMENTS, "num_train_epochs": args.epochs, "use_cpu": not has_accelerator()}
    arguments |= {"bf16": True} if args.precision == "bf16" else {}
    print(f"{args.rows} rows, {args.epochs:g} epochs, {len(args.seeds)} seeds, {len(MIXINGS)} regimes")
    print(f"{args.workers} workers, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for task in args.tasks:
        if args.profile:
            profile(task, args, arguments)
            continue
        rates = {kind: gemm_rate(dtype) for kind, dtype in KINDS.items()}
        rate = rates[args.precision]
        work, text = useful_work(task, args, args.epochs)
        peer = seconds(lambda task=task: stock_loop(task, args, arguments))  # type: ignore[misc]
        shown = " and ".join(f"{value / 1e9:.0f} GFLOP/s in {kind}" for kind, value in rates.items())
        print(f"{task}: {text:.0%} of the tokens are text; matrix products: {shown}; here: {args.precision}")
        before = peer
        print(f"  {'stock Trainer, padded to 64, every regime':45} {peer:7.1f} s   1.00x  {work / peer / rate:6.1%}")
        for rung in args.rungs:
            took = seconds(lambda task=task, rung=rung: study(task, args, arguments, rung))  # type: ignore[misc]
            ratios = f"{peer / took:6.2f}x  {work / took / rate:6.1%}   this alone {before / took:5.2f}x"
            print(f"  {RUNGS[rung][0]:45} {took:7.1f} s {ratios}", flush=True)
            before = took


if __name__ == "__main__":
    main()
