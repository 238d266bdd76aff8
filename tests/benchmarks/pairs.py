"""Two things timed in turn, A B A B ..., and the ratio pair by pair: it holds when the machine's speed drifts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def compare(ours: Callable[[], object], peer: Callable[[], object], pairs: int) -> tuple[list[float], list[float]]:
    """Seconds of processor time of each, in turn, after one uncounted pair; which goes first alternates."""
    times: dict[Callable[[], object], list[float]] = {ours: [], peer: []}
    for pair in range(-1, pairs):
        for function in (ours, peer) if pair % 2 else (peer, ours):
            start = time.process_time()
            function()
            if pair >= 0:
                times[function].append(time.process_time() - start)
    return times[ours], times[peer]


def report(name: str, ours: list[float], peer: list[float]) -> None:
    """One line: median milliseconds of both, and the ratio's median and quartiles."""
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    a, b = (1000 * statistics.median(times) for times in (ours, peer))
    print(f"{name:40} {a:9.2f} ms {b:9.2f} ms   ratio {middle:.4f}  [{low:.4f}, {high:.4f}]  {len(ratios)} pairs")
