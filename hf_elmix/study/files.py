"""Write files and folders of a study, local or at an fsspec URL, whole or not at all."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any, TypeVar, cast
from urllib.parse import quote

from upath import UPath

from hf_elmix.disk import LIMIT, read_regular, unused_name, write_whole
from hf_elmix.errors import in_one_line

__all__ = [
    "DISK_FULL",
    "StorageError",
    "as_storage_error",
    "below",
    "component",
    "fresh",
    "is_linked",
    "local_path",
    "naming_storage_faults",
    "no_link",
    "put_folder",
    "read_bytes",
    "remove",
    "storage_fault",
    "to_json",
    "unlink",
    "write_bytes",
    "write_json",
]

P = TypeVar("P", bound=PurePath | UPath)

LONGEST = 200  # bytes of a path component that is made from a name; file systems allow 255, with any suffix
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

# Errors of a disk or of the way to it, whatever was read or written; some systems lack some of the names.
FAULTS = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "ESTALE", "EREMOTEIO", "ENOLINK", "ENODEV", "ENXIO"),
        *("ENOMEDIUM", "ENOTCONN", "ESHUTDOWN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "EMFILE", "ENFILE"),
    )
    if hasattr(errno, name)
}

NAMES = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG}


class StorageError(OSError):
    """What the study writes could not be written, or what it wrote not be read: no result of a run."""


def storage_fault(error: BaseException | None) -> OSError | None:
    """The error of a disk, a mount or a server that an error is or comes from, or None if it comes from another."""
    while error is not None:
        if isinstance(error, StorageError) or (isinstance(error, OSError) and error.errno in FAULTS):
            return error
        # Libraries that are not written in Python say it in words, and PyTorch not even that.
        text = str(error)
        number = next((number for number in FAULTS if os.strerror(number) in text), None)
        if number is None and re.search(r"unexpected pos \d+ vs \d+", text):
            number = errno.EIO
        if number is not None:
            return StorageError(number, os.strerror(number))
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def as_storage_error(path: Path | UPath) -> Iterator[None]:
    """Turn errors of file systems, which are of any type if they are remote, into `StorageError`.

    Those of a name, which say that there is no such file, stay as they are.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno in NAMES or isinstance(error, FileNotFoundError):
            raise
        if error.errno is None:
            raise StorageError(f"Cannot reach {path}: {in_one_line(error)}") from error
        raise StorageError(error.errno, error.strerror, error.filename or str(path)) from error
    except Exception as error:
        if local_path(path) is not None:
            raise
        raise StorageError(f"Cannot reach {path}: {in_one_line(error)}") from error


@contextmanager
def naming_storage_faults(folder: Path, place: str | Path | UPath | None = None) -> Iterator[None]:
    """Turn any error that a fault of the storage has caused into one that says so; libraries often hide the reason.

    Args:
        folder: Where files are written, on a local disk.
        place: The folder to name in the message, if it is another one.

    Raises:
        StorageError: If a disk, a mount or a server is at fault.
    """
    try:
        yield
    except Exception as error:
        if (fault := _unwritable(folder) or storage_fault(error)) is None:
            raise
        if fault.errno in DISK_FULL:
            text = f"No space left for a checkpoint or model. Free some in {str(place or folder)!r}"
            raise StorageError(errno.ENOSPC, text) from error
        where = fault.filename or str(place or folder)
        text = f"Cannot write or read a checkpoint or model ({fault.strerror or fault}); run the same command again"
        raise (StorageError(fault.errno, text, where) if fault.errno else StorageError(f"{text}: {where}")) from error


def _unwritable(folder: Path) -> OSError | None:
    """Why 1 MiB cannot be written, or None; it is written, since quotas are not visible otherwise."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))
            file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError as error:
        return StorageError(error.errno, f"{error.strerror}; it was deleted or unmounted", str(folder))
    except OSError as error:
        return error
    return None


@functools.lru_cache(maxsize=1024)
def component(name: str) -> str:
    """Quote a name so that it is one path component; short names such as the paper's losses stay as they are."""
    quoted = quote(name, safe=" ,@:[]=")
    if len(quoted) > LONGEST:  # such as a schedule of 60 phases
        quoted = f"{quoted[: LONGEST - 16]}~{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return quoted if quoted.strip(".") else quoted.replace(".", "%2E") or "%"


def below(folder: P, name: str) -> P:
    """The path of a name that was read from a file or a listing, which nobody has vouched for.

    Raises:
        ValueError: If the name leads out of the folder, or to the folder itself.
    """
    parts = {*name.split("/"), *PurePath(name).parts}  # on Windows, the second are split at backslashes, too
    if parts & {"", ".", ".."} or PurePath(name).anchor or "\0" in name:
        raise ValueError(f"{name!r} is not a name inside the folder")
    return cast(P, folder / name)


def local_path(path: Path | UPath) -> Path | None:
    """A path on the file system of this machine, or None for a URL."""
    return Path(str(path)) if isinstance(path, Path) else None


def is_linked(path: UPath, folder: UPath) -> bool:
    """Whether a path below a folder is a symbolic link, or leads through one."""
    here = local_path(folder)
    if here is None:
        return False
    parts = path.relative_to(folder).parts
    return any(os.path.islink(here.joinpath(*parts[: k + 1])) for k in range(len(parts)))


def no_link(path: UPath, folder: UPath) -> UPath:
    """A path below a folder, to write to.

    Raises:
        StorageError: If it is a link, or leads through one.
    """
    if is_linked(path, folder):
        raise StorageError(f"A link has taken the place of {str(path)!r} or of a folder above it. Remove it.")
    return path


def fresh(path: UPath) -> UPath:
    """The path without cached listings, because other processes write to the same URL."""
    if local_path(path) is None:
        path.fs.invalidate_cache()
    return path


def write_json(path: UPath, values: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, as `to_json` writes it."""
    write_bytes(path, to_json(values))


def to_json(values: Mapping[str, Any]) -> bytes:
    """The content of a readable JSON file; NaN and infinity become null."""
    return (json.dumps(_strict(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_bytes(path: Path | UPath, limit: int = LIMIT) -> bytes:
    """Read a whole file, as `read_regular` does.

    Raises:
        ValueError: If it is not a regular file, or too large.
        OSError: If it does not exist or cannot be read.
    """
    if isinstance(path, Path):
        return read_regular(path, limit)
    with as_storage_error(path):
        size = path.fs.size(path.path)
        data = b"" if size > limit else path.fs.cat_file(path.path)
    if size > limit:
        raise ValueError(f"it has more than {limit:,} bytes")
    return data


def write_bytes(path: UPath, data: bytes) -> None:
    """Write a file atomically."""
    here = local_path(path)
    with as_storage_error(path):
        if here is None:  # object stores show an object only once it is complete
            path.write_bytes(data)
        else:
            write_whole(here, data)


def put_folder(source: Path, target: UPath) -> None:
    """Move a local folder to a target, which appears whole or not at all; an existing one is replaced.

    At a URL, files are written in the order of their names, so that a manifest can come last.
    """
    here = local_path(target)
    if here is None:
        remove(target)
        with as_storage_error(target):
            for path in sorted(path for path in source.rglob("*") if path.is_file()):
                target.fs.put_file(str(path), (target / path.relative_to(source).as_posix()).path)
        return
    near = unused_name(here)
    with as_storage_error(target):
        here.parent.mkdir(parents=True, exist_ok=True)
        # Libraries write some files under a temporary name, which gives them a mode that shuts others out.
        mode = here.parent.stat().st_mode & 0o666
        for path in source.rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.chmod(path.stat().st_mode | mode)
        try:
            shutil.move(source, near)
            remove(target)
            os.rename(near, here)
        finally:
            shutil.rmtree(near, ignore_errors=True)


def remove(path: UPath) -> None:
    """Remove a folder and everything in it, if it exists; of a link, only the link."""
    here = local_path(path)
    if here is not None and (here.is_symlink() or here.is_file()):
        with suppress(OSError):
            here.unlink()
        return
    if here is not None:
        shutil.rmtree(here, ignore_errors=True)
        return
    with as_storage_error(path), suppress(FileNotFoundError):
        if not fresh(path).exists():
            return
        if "[" in path.path:  # `rm` would read it as a pattern
            for file in path.fs.find(path.path):
                path.fs.rm_file(file)
        else:
            path.fs.rm(path.path, recursive=True)


def unlink(path: UPath) -> None:
    """Delete a file, if it is there."""
    if local_path(path) is not None:
        path.unlink(missing_ok=True)  # another process may have been faster
        return
    with as_storage_error(path), suppress(FileNotFoundError):
        path.fs.rm_file(path.path)  # `path.unlink` would take brackets for a pattern


def _strict(value: Any) -> Any:
    """A copy of plain values with None for NaN and infinity, which JSON lacks."""
    if isinstance(value, Mapping):
        return {name: _strict(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
