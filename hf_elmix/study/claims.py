"""Which parts of a study are being worked on, by which process; local folders only, as there are no locks at a URL."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout
from upath import UPath

from hf_elmix.study.files import component, local_path, no_link, read_bytes, write_json
from hf_elmix.study.schema import Claim, parse
from hf_elmix.study.spec import Block

__all__ = ["Claims", "claim_name"]

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


class Claims:
    """The claims on the parts of a study, each by its `claim_name`, or ``study`` for the whole.

    Args:
        study: The folder of the study.
    """

    def __init__(self, study: UPath) -> None:
        self.study, self.folder = study, study / ".locks"
        self._held: dict[str, tuple[int, int] | None] = {}  # the lock file of each claim of this process

    @contextmanager
    def hold(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Claim what only one process may work on, and yield whether it was free.

        The claim ends with the process, however that ends. At a URL everything can be claimed. With `wait`, wait until
        it is free.

        Raises:
            StorageError: If a link has taken the place of the folder of the locks.
        """
        if local_path(self.folder) is None:
            yield True
            return
        no_link(self.folder, self.study).mkdir(parents=True, exist_ok=True)
        path, about = self._file(name, ".lock"), self._file(name, ".json")
        lock = FileLock(str(path))
        try:
            lock.acquire(blocking=wait)
        except Timeout:
            yield False
            return
        try:
            self._held[name] = _identity(path)
            write_json(about, {"host": socket.gethostname(), "process": os.getpid()})
            yield True
        finally:
            if self._held.pop(name) == _identity(path):  # else it may be another's by now
                about.unlink(missing_ok=True)
            lock.release()

    def check(self, name: str) -> None:
        """Make sure that a claim of this process still keeps others out.

        Raises:
            OSError: If its lock file was deleted, so that another process may be doing the same work.
        """
        path = self._file(name, ".lock")
        if name in self._held and self._held[name] != _identity(path):
            raise OSError(
                f"The lock file {path} was deleted during the study. Run the same command again to continue."
            )

    def holder(self, name: str) -> str | None:
        """The process that holds a claim, as text, or None if it is free."""
        about = self._file(name, ".json")
        if local_path(self.folder) is None or not (about.exists() or about.is_symlink()):
            return None
        try:
            with self.hold(name) as free:
                if free:
                    return None  # left behind by a process that was killed
        except OSError as error:
            if error.errno not in UNWRITABLE:  # where nothing can be tried, the claim counts
                raise
        try:
            values = parse(Claim, read_bytes(about))
        except (OSError, ValueError):
            return "another process"
        return f"process {values['process']} on {values['host']}"

    def _file(self, name: str, suffix: str) -> UPath:
        return self.folder / f"{component(name)}{suffix}"


def claim_name(block: Block) -> str:
    """The name by which a block is claimed."""
    return f"{block[0]} seed{block[1]}"


def _identity(path: UPath) -> tuple[int, int] | None:
    """What tells a file from another one in its place, or None if there is none."""
    try:
        found = os.stat(str(path))
    except OSError:
        return None
    return found.st_dev, found.st_ino
