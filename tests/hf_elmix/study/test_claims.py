from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from filelock import FileLock

from hf_elmix.study.claims import claim_name
from hf_elmix.study.store import Store


def test_a_claim_is_exclusive_until_it_ends(store):
    with store.claims.hold("a seed0") as mine:
        assert mine
        with Store(store.folder).claims.hold("a seed0") as theirs, store.claims.hold("a seed1") as other:
            assert (theirs, other) == (False, True)
        with store.claims.hold("a seed0") as again:  # one that failed has taken nothing away
            assert not again
        assert store.claims.holder("a seed0") == f"process {os.getpid()} on {socket.gethostname()}"
        assert store.claims.holder("a seed0") is not None  # to ask has taken nothing away either
    assert store.claims.holder("a seed0") is None
    with store.claims.hold("a seed0") as later:
        assert later


def test_a_claim_in_a_folder_that_may_only_be_read_counts(store, monkeypatch):
    def refused(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with store.claims.hold("a seed0"):
        monkeypatch.setattr(FileLock, "acquire", refused)
        assert store.claims.holder("a seed0") == f"process {os.getpid()} on {socket.gethostname()}"
        monkeypatch.undo()


def test_a_claim_ends_with_an_error(store):
    with pytest.raises(RuntimeError), store.claims.hold("x"):
        raise RuntimeError
    with store.claims.hold("x") as free:
        assert free


def test_claims_of_different_blocks_are_different(store):
    names = [claim_name((task, seed)) for task in ("a", "b", "a/b", "a seed1") for seed in (0, 1, 10)]
    assert len(set(names)) == len(names)
    with store.claims.hold(claim_name(("a/b", 0))) as one, store.claims.hold(claim_name(("a", 0))) as other:
        assert (one, other) == (True, True)


def test_behind_a_url_everything_can_be_claimed():
    store = Store(f"memory://{uuid.uuid4().hex}/runs")
    with store.claims.hold("x") as one, store.claims.hold("x") as other:
        assert (one, other) == (True, True)
        assert store.claims.holder("x") is None


HOLD = """
import sys, time
from hf_elmix.study.store import Store
with Store(sys.argv[1]).claims.hold(sys.argv[2]) as mine:
    print(mine, flush=True)
    time.sleep(600)
"""


@contextmanager
def held_elsewhere(store: Store, name: str) -> Iterator[subprocess.Popen[str]]:
    """A claim that another process holds."""
    command = [sys.executable, "-c", HOLD, str(store.folder), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "True\n"
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_a_claim_of_another_process_ends_when_that_is_killed(store):
    with held_elsewhere(store, "a seed0") as process:
        with store.claims.hold("a seed0") as free:
            assert not free
        assert store.claims.holder("a seed0") == f"process {process.pid} on {socket.gethostname()}"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert store.claims.holder("a seed0") is None
        with store.claims.hold("a seed0") as free:
            assert free
        assert [path.name for path in (store.folder / ".locks").iterdir() if path.suffix == ".json"] == []


@pytest.mark.parametrize("text", ["", "[]", "{}", "null"])
def test_a_holder_that_cannot_be_read_is_still_one(store, text):
    with store.claims.hold("x"):
        (about,) = (store.folder / ".locks").glob("*.json")
        about.write_text(text)
        assert store.claims.holder("x") == "another process"
