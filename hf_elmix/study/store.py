"""What a study leaves: one JSON record for each run, written whole or not at all, and what it was declared to be.

Layout below the folder, which may be a local one or any fsspec URL (``s3://bucket/runs``):

- ``<task>/<method>/seed<k>/record.json``, the method as it was typed; a kept model lies beside it in ``model/``,
  and what it said of each evaluation row while it trained, where that was recorded, in ``predictions.safetensors``;
- ``study.json``: the runs that were asked for, and the settings of each task;
- ``.segments/``: training that several runs share, while it is needed (see `hf_elmix.study.checkpoints`);
- ``.locks/``: which experiments are being done, by whom (local folders only).
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout
from upath import UPath

from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.predictions.records import FILE, Predictions, from_bytes, to_bytes
from hf_elmix.study.spec import RunKey, RunRecord

__all__ = ["DECLARATION", "MODEL", "RECORD", "Store", "fresh", "local_path", "put_folder", "remove", "write_json"]

RECORD = "record.json"
DECLARATION = "study.json"
MODEL = "model"


class Store:
    """The records below one folder.

    Args:
        folder: Where they are: a folder, or an fsspec URL; made when the first record is written.

    Raises:
        UsageError: If there is a file in the folder's place, or the URL cannot be used.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            self._folder = UPath(folder)
            if self._folder.protocol in ("file", "local"):
                self._folder = UPath(self._folder.path)
            self.local = local_path(self._folder) is not None
            if not self.local:
                (self._folder / DECLARATION).exists()
        except Exception as error:  # no such protocol, no package for it, no network, no key: libraries have their own
            raise UsageError(f"Cannot use {str(folder)!r}: {in_one_line(error)}") from error
        if self.local and self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"Expected a folder of runs, but {str(self.folder)!r} is a file.")

    @property
    def folder(self) -> UPath:
        """Where they are."""
        return fresh(self._folder)

    def folder_of(self, key: RunKey) -> UPath:
        """Folder of a run. Names are quoted where they would not be one path component.

        Args:
            key: The run.
        """
        return self.folder.joinpath(*_place(key))

    def segments_of(self, task: str, seed: int) -> UPath:
        """Where an experiment keeps training that its runs share.

        Args:
            task: Name of the task.
            seed: The seed.
        """
        return self.folder / ".segments" / component(task) / f"seed{seed}"

    def read(self, key: RunKey) -> RunRecord | None:
        """The record of a run, or None if there is none.

        Args:
            key: The run.

        Raises:
            UsageError: If the file is no record.
        """
        path = self.folder_of(key) / RECORD
        return self._read(path) if path.exists() else None

    def write(self, record: RunRecord) -> UPath:
        """Write a record by rename, so that nobody ever sees half of it.

        Args:
            record: The record; it replaces an earlier one of the same run.

        Returns:
            Its file.

        Raises:
            OSError: If it cannot be written.
        """
        path = self.folder_of(record.key) / RECORD
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.local:  # a process that was killed may have left half a model
            for left in path.parent.glob(f".{MODEL}.*"):
                remove(left)
        write_json(path, record.to_dict())
        return path

    def read_predictions(self, key: RunKey) -> dict[str, Predictions] | None:
        """What a run's model said of each evaluation row while it trained, or None if that was not recorded.

        Args:
            key: The run.

        Returns:
            Predictions by the name of their evaluation set, ``""`` for the only one.

        Raises:
            UsageError: If the file holds none.
        """
        path = self.folder_of(key) / FILE
        return from_bytes(path.read_bytes(), repr(str(path))) if path.exists() else None

    def with_predictions(self, keys: Iterable[RunKey]) -> list[RunKey]:
        """Those of some runs whose predictions were recorded.

        Args:
            keys: The runs; there may be ten thousand.
        """
        here = local_path(self.folder)
        if here is not None:
            top = str(here)  # as texts, which cost less than paths
            return [key for key in keys if os.path.exists("/".join((top, *_place(key), FILE)))]
        there = {path.parts[-4:-1] for path in self._files(FILE)}
        return [key for key in keys if _place(key) in there]

    def write_predictions(self, key: RunKey, sets: Mapping[str, Predictions]) -> None:
        """Write what a run's model said of each evaluation row, by rename as a record.

        Args:
            key: The run.
            sets: By the name of their evaluation set, ``""`` for the only one.

        Raises:
            OSError: If it cannot be written.
        """
        path = self.folder_of(key) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, to_bytes(sets))

    def records(self) -> Iterator[RunRecord]:
        """All records, in the order of their keys.

        Raises:
            UsageError: If the folder does not exist or one of its files is no record.
        """
        if not self.folder.is_dir():
            raise UsageError(f"Expected a folder of runs, but {str(self.folder)!r} is none.")
        found = [self._read(path) for path in self._files(RECORD)]
        yield from sorted(found, key=lambda record: record.key)

    def declaration(self) -> dict[str, Any]:
        """What the study of this folder was declared to be.

        Returns:
            ``grids`` that were asked for (tasks, methods, seeds), ``methods`` by name (loss and arguments), and
            ``settings`` of each task.

        Raises:
            UsageError: If the file is damaged.
        """
        path = self.folder / DECLARATION
        if not path.exists():
            return {"grids": [], "methods": {}, "settings": {}, "commands": []}
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            parts = {name: dict(values[name]) for name in ("methods", "settings")}
            return {"grids": list(values["grids"]), **parts, "commands": list(values.get("commands", ()))}
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{path} is damaged ({error}). Delete it: the study writes it again.") from None

    def asked(self) -> list[RunKey]:
        """Every run that was asked for so far, each once, in the order of the grids they were asked for in."""
        parts = [
            itertools.product(grid["tasks"], grid["seeds"], grid["methods"]) for grid in self.declaration()["grids"]
        ]
        keys = [RunKey(task, method, seed) for part in parts for task, seed, method in part]
        return list(dict.fromkeys(keys))

    def declare(self, declaration: Mapping[str, Any]) -> None:
        """Write what the study is declared to be.

        Args:
            declaration: As `declaration` gives it.

        Raises:
            OSError: If it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / DECLARATION, declaration)

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Hold something of this study that only one driver may do at a time.

        The claim ends with the process, however that ends. On a URL there are no locks: everything can be claimed.

        Args:
            name: What is claimed; see `claim_of`.

        Yields:
            Whether it could be claimed.
        """
        if not self.local:
            yield True
            return
        path = self.folder / ".locks" / component(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock, about = FileLock(str(path) + ".lock"), path.with_name(path.name + ".json")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            write_json(about, {"host": socket.gethostname(), "process": os.getpid()})
            yield True
        finally:
            about.unlink(missing_ok=True)
            lock.release()

    def holder(self, name: str) -> str | None:
        """Who holds a claim, in words, or None if nobody does.

        Args:
            name: What is claimed; see `claim_of`.
        """
        about = self.folder / ".locks" / f"{component(name)}.json"
        if not self.local or not about.exists():
            return None
        with self.claim(name) as free:
            if free:
                return None  # left behind by a driver that was killed
        try:
            values = json.loads(about.read_text(encoding="utf-8"))
            return f"process {values['process']} on {values['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def _files(self, name: str) -> Iterator[Path | UPath]:
        """Those of a name in the folders of runs."""
        here = local_path(self.folder)
        if here is not None:  # as plain paths, which cost a tenth: there may be ten thousand
            yield from here.glob(f"*/*/seed*/{name}")
            return
        # One listing of all that is there, where going from folder to folder takes one for each of them.
        top = self.folder.path.rstrip("/") + "/"
        for place in self.folder.fs.find(top):
            parts = place.removeprefix(top).split("/")
            if len(parts) == 4 and parts[2].startswith("seed") and parts[3] == name:
                yield self.folder.joinpath(*parts)

    def _read(self, path: Path | UPath) -> RunRecord:
        try:
            record = RunRecord.from_dict(json.loads(path.read_text(encoding="utf-8")))
            if path.parts[-4:-1] != _place(record.key):
                raise ValueError(f"it is the record of {record.key}")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(
                f"{path} is no record of a run ({error}). Delete it to have the run done again."
            ) from None
        return record


def claim_of(task: str, seed: int) -> str:
    """The name under which an experiment is claimed."""
    return f"{task} seed{seed}"


def local_path(path: UPath) -> Path | None:
    """A path as one of this machine's file system, or None if it is that of a URL.

    Args:
        path: Of either kind.
    """
    return Path(str(path)) if isinstance(path, Path) else None


def fresh(path: UPath) -> UPath:
    """A path that is looked up anew: what is listed on a URL is remembered, but other processes write there too.

    Args:
        path: Of a local file or a URL.
    """
    if local_path(path) is None:
        path.fs.invalidate_cache()
    return path


def write_json(path: UPath, values: Mapping[str, Any]) -> None:
    """Write a JSON file that a person can read: whole under a temporary name, then renamed.

    Args:
        path: The file.
        values: Plain JSON values; a number that is none (NaN, infinity) becomes null.

    Raises:
        OSError: If it cannot be written.
    """
    text = json.dumps(_strict(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    _write(path, text.encode())


def _write(path: UPath, data: bytes) -> None:
    """Write a file whole under a temporary name, then rename it."""
    here = local_path(path)
    if here is None:  # an object is there when it is whole
        with _as_os_error(path):
            path.write_bytes(data)
        return
    # Always the same, so that what a killed process leaves is replaced: each file is written under a claim.
    temporary = here.with_name(f".{path.name}.new")
    try:
        with open(temporary, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, here)
    except OSError as error:
        error.filename = error.filename or str(here)  # writing does not say what was written
        raise
    finally:
        temporary.unlink(missing_ok=True)


def put_folder(source: Path, target: UPath) -> None:
    """Put a local folder in a place, where it is whole or not at all; one that is there already is replaced.

    Args:
        source: The folder; it is moved if it is on the file system of the target, else copied.
        target: Its place. Of a remote one, the files that sort last (say, a manifest) are written last.

    Raises:
        OSError: If it cannot be written.
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
    """Remove a folder and all that is in it, if it is there.

    Args:
        path: The folder.
    """
    here = local_path(path)
    if here is not None:
        shutil.rmtree(here, ignore_errors=True)
        return
    with _as_os_error(path), suppress(FileNotFoundError):
        if fresh(path).exists():
            path.fs.rm(path.path, recursive=True)


@contextmanager
def _as_os_error(path: UPath) -> Iterator[None]:
    """What goes wrong on the way to a URL, as an `OSError`; the libraries that go there have errors of their own."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"Cannot reach {path}: {in_one_line(error)}") from error


def _strict(value: Any) -> Any:
    """Null for numbers that are none, which JSON does not know."""
    if isinstance(value, Mapping):
        return {name: _strict(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _place(key: RunKey) -> tuple[str, str, str]:
    """The folders from that of the study down to that of a run."""
    return component(key.task), component(key.method), f"seed{key.seed}"


@functools.lru_cache(maxsize=1024)
def component(name: str) -> str:
    """A name as one path component; the paper's regimes stay as they are."""
    quoted = quote(name, safe=" ,@:")
    return quoted if quoted.strip(".") else quoted.replace(".", "%2E") or "%"
