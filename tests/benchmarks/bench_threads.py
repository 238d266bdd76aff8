"""How long steps of a tiny BERT take beside busy processes, by what PyTorch's threads do while they wait.

    python tests/benchmarks/bench_threads.py        # on an idle machine

`elmix` and `glue-runs` let threads sleep soon unless OMP_WAIT_POLICY is set; without it, they spin for long. Both are
timed in turn, alone and beside endless loops, and the ratio is taken pair by pair. A fair scheduler gives n threads
beside b loops on c cores the share c / (n + b) of a core each, so steps should take (n + b) / c times as long, if that
is above 1; for one thread beside one loop on two cores that is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hf_elmix.machine import usable_cores

STEPS = 48

# Trains after a warm-up, and prints the wall-clock seconds.
TRAIN = f"""
import sys, time
from hf_elmix.cli.base import Command, run_program

def train(args):
    import torch
    from transformers import BertConfig, BertForSequenceClassification
    size = dict(hidden_size=32, intermediate_size=128, num_attention_heads=2, num_hidden_layers=2, vocab_size=1000)
    model = BertForSequenceClassification(BertConfig(**size))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids, labels = torch.randint(1000, (32, 32)), torch.randint(2, (32,))
    for step in range({STEPS} + 4):
        if step == 4:
            start = time.perf_counter()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(time.perf_counter() - start)
    return 0

if sys.argv[1] == "stock":
    sys.exit(train(None))
sys.exit(run_program("bench", "Trains.", {{"train": Command(train, lambda parser: None)}}, ["train"]))
"""


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """Endless loops in as many processes."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def seconds(how: str, threads: int, loops: int) -> float:
    """Seconds of `STEPS` steps as a command of ours, or in a Python that is left as it is (``stock``)."""
    given = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    given |= {"OMP_NUM_THREADS": str(threads)}
    with busy(loops):
        command = [sys.executable, "-c", TRAIN, how]
        done = subprocess.run(command, env=given, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--loops", type=int, default=1, help="busy processes")
    args = parser.parse_args()
    cores = usable_cores()
    print(f"{STEPS} steps; {cores} cores; load before the start: {os.getloadavg()[0]:.2f}")
    alone: dict[int, float] = {}
    for loops in (0, args.loops):
        for threads in dict.fromkeys((1, cores)):
            pairs = [(seconds("ours", threads, loops), seconds("stock", threads, loops)) for _ in range(args.pairs)]
            ours, spinning = (statistics.median(times) for times in zip(*pairs, strict=True))
            ratio = statistics.median(one / other for one, other in pairs)
            alone.setdefault(threads, ours)
            fair = max(1.0, (threads + loops) / cores)
            slower = f"{ours / alone[threads]:5.2f} times as long as alone, fair is {fair:4.2f}" if loops else ""
            print(
                f"{loops} loops, {threads} threads: ours {ours:7.2f} s, spinning {spinning:7.2f} s, "
                f"ratio {ratio:5.3f}   {slower}",
                flush=True,
            )


if __name__ == "__main__":
    main()
