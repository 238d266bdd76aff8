"""What runs in a worker process; it imports next to nothing, so that a worker ends with its driver from the start."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

from hf_elmix.machine import prepare_process

if TYPE_CHECKING:
    from hf_elmix.study.executors.local import Run
    from hf_elmix.study.shared_prefixes import Branch

__all__ = ["picklable", "room_on_gpu", "serve", "work"]

CONTEXT = 600 << 20  # bytes that a process takes on a GPU besides its tensors
SHARE = 0.8  # of the free memory that is given to further processes; their branches may need more than the first


def work(connection: Connection, pickled: bytes) -> None:
    """Unpickle what trains a branch, and train the branches that come through a pipe.

    Args:
        connection: The pipe.
        pickled: The function, a `Run`. To unpickle it imports PyTorch and more, which takes seconds.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides what happens.
    prepare_process()
    ready = threading.Event()
    threading.Thread(target=_end_with_driver, args=(ready,), daemon=True).start()
    run = pickle.loads(pickled)
    ready.set()
    serve(connection, run)


def serve(connection: Connection, run: Run) -> None:
    """Train the branches that come through a pipe until it is closed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that Python cleans up
    show = sys.unraisablehook  # Python drops SystemExit in a finalizer; the broken pipe then ends the process
    sys.unraisablehook = lambda dropped: None if dropped.exc_type is SystemExit else show(dropped)
    gc.freeze()  # as in `run_in_process`
    # When the parent has ended, nobody reads the result; the pipe is reset if it held unread messages.
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            branch: Branch = connection.recv()
            try:
                outcome = run(branch, lambda step, steps, logs=(): connection.send((step, steps, logs)))
                if (room := room_on_gpu()) is not None:
                    connection.send(room)
                connection.send(outcome)
            except BrokenPipeError:
                raise
            except OSError as error:
                connection.send(picklable(error))


def room_on_gpu() -> int | None:
    """How many further processes like this one fit into the free memory of its GPU; None if it has used none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    free, _ = torch.cuda.mem_get_info()
    return int(SHARE * free // (torch.cuda.max_memory_reserved() + CONTEXT))


def picklable(error: OSError) -> OSError:
    """A copy of an error without traceback and cause, which can be sent to another process."""
    return OSError(error.errno, error.strerror, error.filename) if error.errno else OSError(str(error))


def _end_with_driver(ready: threading.Event) -> None:
    """End this process with its parent until it is ready; then the broken pipe ends it, with time to clean up."""
    driver = multiprocessing.parent_process()
    assert driver is not None, "workers are started by a driver"
    wait([driver.sentinel])
    if not ready.is_set():
        os._exit(1)
