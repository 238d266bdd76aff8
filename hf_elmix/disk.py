"""Read and write single local files in folders where others, or a process that was killed, may have left anything."""

from __future__ import annotations

import glob
import hashlib
import os
import secrets
import stat
from pathlib import Path

__all__ = ["LIMIT", "check_regular", "digest_of", "read_regular", "unused_name", "write_whole"]

LIMIT = 64 * 2**20  # bytes of a text file; the record of a run with 100,000 logs takes a third of it

# A link is not followed, and a pipe is not waited for. Windows has neither flag, and neither danger.
SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_regular(path: str | os.PathLike[str], limit: int = LIMIT) -> bytes:
    """Read a whole file.

    Args:
        path: The file.
        limit: Its largest size in bytes.

    Raises:
        ValueError: If it is a link, a folder, a pipe or a device, or too large.
        OSError: If it does not exist or cannot be read.
    """
    check_regular(os.lstat(path))  # to open a device may do something
    with open(os.open(path, os.O_RDONLY | SAFELY), "rb") as file:
        check_regular(found := os.fstat(file.fileno()))  # the file may have been replaced in between
        data = file.read(limit + 1) if found.st_size <= limit else b""
    if max(found.st_size, len(data)) > limit:
        raise ValueError(f"it has more than {limit:,} bytes")
    return data


def check_regular(found: os.stat_result) -> None:
    """Raise a `ValueError` if a file is a link, a folder, a pipe or a device."""
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is a link" if stat.S_ISLNK(found.st_mode) else "it is not a regular file")


def digest_of(path: Path) -> str:
    """32 hexadecimal digits that tell the content of a file from any other."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically: under a temporary name in its folder, which is then renamed.

    Only one process may write a file at a time: what one that was killed left beside it is removed.

    Raises:
        OSError: If the file cannot be written.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.new"):
        left.unlink(missing_ok=True)
    temporary = unused_name(path, ".new")
    try:
        # Unlike one from `tempfile`, it gets the mode of any new file. An existing name, or a link, is refused.
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFELY, 0o666), "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # errors of `write` do not name the file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def unused_name(path: Path, suffix: str = "") -> Path:
    """A hidden name beside a path that nobody can guess."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{suffix}")
