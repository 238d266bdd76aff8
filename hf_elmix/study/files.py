"""Write files and folders of a study, local or at an fsspec URL, whole or not at all."""

from __future__ import annotations

import errno
import functools
import json
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any, TypeVar, cast
from urllib.parse import quote

from upath import UPath

from hf_elmix.errors import in_one_line

__all__ = [
    "DISK_FULL",
    "below",
    "component",
    "disk_full_in",
    "fresh",
    "local_path",
    "put_folder",
    "remove",
    "unlink",
    "write_bytes",
    "write_json",
]

P = TypeVar("P", bound=PurePath | UPath)

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_full_in(folder: Path, place: str | Path | None = None) -> Iterator[None]:
    """Turn any error that a full disk has caused into one that says so; libraries often give another reason, or none.

    Args:
        folder: Where files are written, on a local disk.
        place: The folder to name in the message, if it is another one.

    Raises:
        OSError: If the disk is full.
    """
    try:
        yield
    except Exception as error:
        if not _names_full_disk(error) and _has_room(folder):
            raise
        text = f"No space left for a checkpoint or model. Free some in {str(place or folder)!r}"
        raise OSError(errno.ENOSPC, text) from error


def _has_room(folder: Path) -> bool:
    """Whether 1 MiB can be written; it is written, since quotas are not visible otherwise."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno not in DISK_FULL
    return True


def _names_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, says that a disk is full."""
    while error is not None:
        if getattr(error, "errno", None) in DISK_FULL or "No space left" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@functools.lru_cache(maxsize=1024)
def component(name: str) -> str:
    """Quote a name so that it is one path component; the names of the paper's losses stay as they are."""
    quoted = quote(name, safe=" ,@:[]=")
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


def local_path(path: UPath) -> Path | None:
    """A path on the file system of this machine, or None for a URL."""
    return Path(str(path)) if isinstance(path, Path) else None


def fresh(path: UPath) -> UPath:
    """The path without cached listings, because other processes write to the same URL."""
    if local_path(path) is None:
        path.fs.invalidate_cache()
    return path


def write_json(path: UPath, values: Mapping[str, Any]) -> None:
    """Write a readable JSON file atomically; NaN and infinity become null."""
    text = json.dumps(_strict(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode())


def write_bytes(path: UPath, data: bytes) -> None:
    """Write a file atomically: under a temporary name, which is then renamed."""
    here = local_path(path)
    if here is None:  # object stores show an object only once it is complete
        with _as_os_error(path):
            path.write_bytes(data)
        return
    # A fixed name, so that a file which a killed process left is replaced; only the holder of a claim writes.
    temporary = here.with_name(f".{path.name}.new")
    try:
        with open(temporary, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, here)
    except OSError as error:
        error.filename = error.filename or str(here)  # errors of `write` do not name the file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def put_folder(source: Path, target: UPath) -> None:
    """Move a local folder to a target, which appears whole or not at all; an existing one is replaced.

    At a URL, files are written in the order of their names, so that a manifest can come last.
    """
    here = local_path(target)
    if here is None:
        remove(target)
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            target.fs.put_file(str(path), (target / path.relative_to(source).as_posix()).path)
        return
    here.parent.mkdir(parents=True, exist_ok=True)
    near = here.with_name(f".{here.name}.{uuid.uuid4().hex[:8]}")
    try:
        shutil.move(source, near)
        remove(target)
        os.rename(near, here)
    finally:
        shutil.rmtree(near, ignore_errors=True)


def remove(path: UPath) -> None:
    """Remove a folder and everything in it, if it exists."""
    here = local_path(path)
    if here is not None:
        shutil.rmtree(here, ignore_errors=True)
        return
    with _as_os_error(path), suppress(FileNotFoundError):
        if not fresh(path).exists():
            return
        if "[" in path.path:  # `rm` would read it as a pattern
            for file in path.fs.find(path.path):
                path.fs.rm_file(file)
        else:
            path.fs.rm(path.path, recursive=True)


def unlink(path: UPath) -> None:
    """Delete a file."""
    if local_path(path) is not None:
        path.unlink()
        return
    with _as_os_error(path):
        path.fs.rm_file(path.path)  # `path.unlink` would take brackets for a pattern


@contextmanager
def _as_os_error(path: UPath) -> Iterator[None]:
    """Turn the errors of remote file systems, which are of any type, into `OSError`."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"Cannot reach {path}: {in_one_line(error)}") from error


def _strict(value: Any) -> Any:
    """A copy of plain values with None for NaN and infinity, which JSON lacks."""
    if isinstance(value, Mapping):
        return {name: _strict(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
