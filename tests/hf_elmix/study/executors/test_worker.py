from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from hf_elmix.study.executors import worker
from hf_elmix.study.executors.local import Progress
from hf_elmix.study.shared_prefixes import Branch, Outcome

BRANCH = Branch("a", 0, ("ce", "0"), ("ce", "0"))


def test_a_worker_leaves_when_the_line_to_its_driver_breaks(monkeypatch):
    done: list[Branch] = []

    def noting(branch: Branch, progress: Progress) -> Outcome:
        mine.close()
        done.append(branch)
        return Outcome(branch)

    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)
    monkeypatch.setattr(worker.gc, "freeze", lambda: None)
    mine, its = multiprocessing.Pipe()
    mine.send(BRANCH)
    worker.serve(its, noting)
    assert done == [BRANCH]


@pytest.mark.parametrize("unread", [False, True])
def test_a_worker_whose_parent_is_gone_ends_without_a_word(monkeypatch, unread):
    """A line that breaks with something unread in it is reset, which is another error than its end."""
    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    ours, its = multiprocessing.Pipe()
    if unread:
        its.send((1, 2))
    ours.close()
    worker.serve(its, lambda branch, progress: pytest.fail("there is nothing to do"))
    gc.unfreeze()


# A driver whose worker takes long to import what it needs.
DRIVER = """
import multiprocessing, pickle, sys, time
from hf_elmix.study.executors.worker import work

class Slow:
    def __reduce__(self):
        return time.sleep, (600,)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    process = context.Process(target=work, args=(its, pickle.dumps(Slow())), daemon=True)
    process.start()
    print(process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_still_importing_ends_with_its_driver(tmp_path, how):
    (tmp_path / "driver.py").write_text(DRIVER)
    with subprocess.Popen([sys.executable, tmp_path / "driver.py"], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        pid = int(driver.stdout.readline())
        driver.send_signal(how)
    deadline = time.monotonic() + 60
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        pytest.fail("the worker outlives its driver")
