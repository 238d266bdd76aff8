from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hf_elmix.cli.base import Command, run_program
from hf_elmix.machine import usable_cores

BOTH = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "9"}, {"GOMP_SPINCOUNT": "9"}),
    ],
)
def test_threads_of_a_command_soon_sleep_unless_the_user_says_otherwise(given, seen, monkeypatch):
    """PyTorch reads the variables when it is loaded, which no command has done when it begins."""
    for name in BOTH:
        monkeypatch.setenv(name, given.get(name, ""))  # restored after the test
        if name not in given:
            monkeypatch.delenv(name)
    told: list[dict[str, str]] = []

    def run(args) -> int:
        told.append({name: os.environ[name] for name in BOTH if name in os.environ})
        return 0

    assert run_program("me", "Says.", {"go": Command(run, lambda parser: None)}, ["go"]) == 0
    assert told == [seen]


# Fills 64 MiB and frees them, ten times, and prints how many pages the system had to give.
PAGES = """
import resource, sys
from hf_elmix.machine import prepare_process
prepare_process()
blocks = lambda: bytearray(b"x") * (1 << 26)
blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    blocks()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have another allocator")
def test_freed_memory_stays_with_the_process_unless_the_user_says_otherwise():
    def pages(**more: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", PAGES], capture_output=True, text=True, env={**os.environ, **more}
        )
        return int(done.stdout)

    assert pages() < 1000
    assert pages(MALLOC_MMAP_THRESHOLD_="131072") > 100_000  # 10 times 64 MiB in pages of 4 KiB are 163,840


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("max 100000", 6),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("20000 100000", 1),
        ("900000 100000", 6),
        (None, 6),
    ],
)
def test_a_container_has_as_many_cores_as_its_share_of_processor_time(limit, cores, tmp_path, monkeypatch):
    """The file as the kernel's documentation of cgroup v2 describes it: $MAX $PERIOD, in microseconds."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert usable_cores(tmp_path / "cpu.max") == cores
    assert usable_cores(tmp_path / "absent") == 6
