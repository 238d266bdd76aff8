"""Connect to a Ray cluster, or start one for this driver alone and leave nothing of it behind."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from accelerate.utils import patch_environment

from hf_elmix.errors import UsageError, in_one_line

__all__ = ["GONE", "GRACE", "PATIENCE", "PERIOD", "Guard", "check_address", "connected"]

# A cluster that is started here serves this driver only: it listens on this machine alone, needs a secret token, and
# reports no usage. (The first variable makes Ray use the loopback address.)
PRIVATE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
EXPECTED = "Expected host:port as `ray start --head` shows it, ray://host:port, or auto."
PERIOD = 0.5  # seconds between two looks at tasks or processes
PATIENCE = 4.0  # seconds for a cluster to answer
GRACE = 5.0  # seconds for tasks that are cancelled, or a driver without a cluster, to tidy up
TOKEN = "RAY_AUTH_TOKEN"
NEEDED = ("gcs_server", "raylet")  # the processes without which a cluster of this machine is lost
GONE = (
    "The head of the Ray cluster at {} is gone. Finished runs are kept; start the cluster unless it was started by "
    "this command, and run the same command again."
)


@contextmanager
def connected(address: str | None) -> Iterator[tuple[Any, Guard | None]]:
    """The module `ray`, connected: as it already is, to the cluster at an address, or to one that is started here.

    Also the guard of the latter.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    own = {} if address else {**PRIVATE, TOKEN: secrets.token_hex(32)}
    with patch_environment(**own), ExitStack() as stack:
        import ray

        if ray.is_initialized():
            yield ray, None
            return
        guard = None
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            # Ray puts sockets into its folder, and the path of a socket must be short.
            short = os.environ.get("RAY_TMPDIR") or ("/tmp" if os.path.isdir("/tmp") else None)
            folder = tempfile.mkdtemp(prefix="elmix-ray-", dir=short)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            guard = Guard(Path(folder), own[TOKEN])
            stack.callback(guard.end, ray.shutdown)
            # Ray opens its own folder to everyone; nobody gets through to it.
            ray.init("local", include_dashboard=False, _temp_dir=os.path.join(folder, "r"), **quiet)
            guard.start()
        else:
            check_address(address)
            stack.callback(ray.shutdown)
            try:
                ray.init(address, **quiet)
            except (ValueError, RuntimeError, OSError) as error:
                raise UsageError(
                    f"Cannot use the Ray cluster at {address!r}: {in_one_line(error)} {EXPECTED}"
                ) from error
        yield ray, guard


class Guard(threading.Thread):
    """Watches the processes of a cluster that was started here, and ends all of them when one that it needs is dead.

    Ray itself would wait for up to a minute, end this process at once, and leave files and processes behind. The
    driver has a moment to end by itself; if it waits for Ray, it is ended here.

    Attributes:
        lost: Whether such a process is dead.
        rubbish: Files and folders to delete with the cluster.
    """

    def __init__(self, folder: Path, token: str) -> None:
        super().__init__(daemon=True)
        self.lost, self.over = threading.Event(), threading.Event()
        self.rubbish, self.token = [folder], token
        self.needed: list[psutil.Process] = []
        self.started: set[psutil.Process] = set()  # by those, as far as they were seen

    def start(self) -> None:
        """Watch the cluster that this process has just started."""
        self.needed = [process for process in psutil.Process().children() if process.name() in NEEDED]
        super().start()

    def run(self) -> None:
        """Watch until the cluster is shut down or lost."""
        while all(map(_is_alive, self.needed)):
            with suppress(psutil.Error):
                for process in self.needed:
                    self.started.update(process.children(recursive=True))
            if self.over.wait(PERIOD):
                return
        self.lost.set()
        self._kill()
        if not self.over.wait(GRACE):
            self._end_driver()

    def end(self, shutdown: Callable[[], None]) -> None:
        """Shut the cluster down, still watched if it is lost: then Ray may wait for it."""
        if all(map(_is_alive, self.needed)):
            self.over.set()
        shutdown()
        self.over.set()
        self._kill()

    def _kill(self) -> None:
        """Kill all processes of the cluster, which also have inherited its token; without its head, nobody else would.

        Until there is none: while some are killed, the others may start more.
        """
        end = time.monotonic() + GRACE
        while found := self._processes():
            for process in found:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(found, timeout=max(0.0, end - time.monotonic()))
            if time.monotonic() > end:
                break

    def _processes(self) -> list[psutil.Process]:
        """The processes of the cluster that are alive."""
        found = [process for process in (*self.needed, *self.started) if _is_alive(process)]
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and self.token.encode() in _environment(process) and _is_alive(process):
                    found.append(process)
        return found

    def _end_driver(self) -> None:
        """Delete what is left, and end this process with the line that its program would show."""
        for path in self.rubbish:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        warnings.warn(GONE.format("this machine"), stacklevel=1)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _environment(process: psutil.Process) -> bytes:
    """What a process has inherited; psutil reads it up to the gap that a process leaves which changes its title."""
    path = Path(f"/proc/{process.pid}/environ")
    return path.read_bytes() if path.exists() else "\n".join(process.environ().values()).encode()


def _is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; a child that is dead is a zombie until somebody asks for it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def check_address(address: str | None) -> None:
    """Refuse the address of a cluster, by default ``$RAY_ADDRESS``, at which there is none.

    Raises:
        UsageError: If nothing answers there, or something else than a cluster.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if address not in (None, "auto") and (problem := _unreachable(address)):
        raise UsageError(f"No Ray cluster at {address!r}: {problem}. {EXPECTED}")


def _unreachable(address: str) -> str | None:
    """Why there is no cluster at an address, or None if there may be one; `ray.init` itself would try for minutes."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        if parts.hostname is None or parts.port is None:
            return "it is not host:port"
        socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE).close()
    except (OSError, ValueError) as error:  # a port that is not a number is a ValueError
        return str(error)
    if os.environ.get("RAY_USE_TLS") == "1":
        return None
    import grpc  # the protocol of Ray's servers

    with grpc.insecure_channel(parts.netloc, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=PATIENCE)
        except grpc.FutureTimeoutError:
            return "something else answers there"
    return None
