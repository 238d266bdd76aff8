"""What a process is told about the machine before it trains: how threads wait, and who keeps freed memory."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["prepare_process", "usable_cores"]

SPINS = "3000"  # turns of a loop before a thread sleeps; ten times as many are too many beside a busy process
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt in glibc's malloc.h


def prepare_process() -> None:
    """Make training fast in this process; call it before PyTorch is loaded. What the user has set stays.

    A thread that waits for another spins for some microseconds and then sleeps. If it spun on while another process
    keeps that one from running, a busy machine would be many times slower; if it slept at once, an idle one would lose
    a third of its speed with a small encoder. Freed memory stays with the process: glibc returns large blocks to the
    system, so that each step gets its gradients page by page anew, a tenth of its time with a small encoder.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        # The first is what other OpenMP libraries than GNU's understand.
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": SPINS}
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        with suppress(OSError, AttributeError):  # a system with another C library
            libc = ctypes.CDLL(None)
            # Older versions of glibc take 32 MiB at most, and refuse more.
            _ = libc.mallopt(MMAP_THRESHOLD, 1 << 30) or libc.mallopt(MMAP_THRESHOLD, 1 << 25)
            libc.mallopt(TRIM_THRESHOLD, (1 << 31) - 1)


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Number of cores that this process may use: fewer than the machine has where it is pinned, or in a container.

    Args:
        quota: Where Linux says how much processor time a container gets, as microseconds in a period, or ``max``.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        time, period = map(int, quota.read_text(encoding="ascii").split())
    except (OSError, ValueError):  # not Linux, an older kernel, or no limit
        return cores
    return max(1, min(cores, round(time / period)))
