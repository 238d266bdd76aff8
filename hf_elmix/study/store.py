"""The folder of a study: one JSON record for each run, and the declaration of all runs.

Layout below the folder, which may be local or any fsspec URL (``s3://bucket/runs``):

- ``<task>/<method>/seed<k>/record.json``, under the method's name as typed; beside it the trained model in ``model/``
  if it is kept, and its predictions on the evaluation rows in ``predictions.safetensors`` if they were recorded;
- ``study.json``: the declared runs, the settings of each task, and the commands of the study;
- ``.segments/``: shared prefixes of training, while they are needed (see `hf_elmix.study.checkpoints`);
- ``.locks/``: which blocks are being worked on, by which process (local folders only).
"""

from __future__ import annotations

import itertools
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from upath import UPath

from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.predictions.records import FILE, Predictions, from_bytes, to_bytes
from hf_elmix.study.files import component, fresh, local_path, remove, write_bytes, write_json
from hf_elmix.study.spec import Block, RunKey, RunRecord

__all__ = ["DECLARATION", "MODEL", "RECORD", "Store", "claim_name"]

RECORD = "record.json"
DECLARATION = "study.json"
MODEL = "model"


class Store:
    """The records below one folder.

    Args:
        folder: A folder or an fsspec URL; created with the first file.

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
        except Exception as error:  # unknown protocol, missing package, network, credentials: errors of any type
            raise UsageError(f"Cannot use {str(folder)!r}: {in_one_line(error)}") from error
        if self.local and self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"Expected a folder of runs, but {str(self.folder)!r} is a file.")

    @property
    def folder(self) -> UPath:
        """The folder of the study."""
        return fresh(self._folder)

    def folder_of(self, key: RunKey) -> UPath:
        """The folder of a run; names are quoted where they are not one path component."""
        return self.folder.joinpath(*_parts(key))

    def segments_of(self, task: str, seed: int) -> UPath:
        """The folder for the shared prefixes of a block."""
        return self.folder / ".segments" / component(task) / f"seed{seed}"

    def read(self, key: RunKey) -> RunRecord | None:
        """The record of a run, or None if it does not exist.

        Raises:
            UsageError: If the file is not a record.
        """
        path = self.folder_of(key) / RECORD
        return _read_record(path) if path.exists() else None

    def write(self, record: RunRecord) -> UPath:
        """Write a record atomically, replacing an earlier one of the same run, and return its path."""
        path = self.folder_of(record.key) / RECORD
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.local:  # a process that was killed may have left half a model
            for left in path.parent.glob(f".{MODEL}.*"):
                remove(left)
        write_json(path, record.to_dict())
        return path

    def read_predictions(self, key: RunKey) -> dict[str, Predictions] | None:
        """The predictions during training by evaluation set (``""`` for the only one), or None if not recorded.

        Raises:
            UsageError: If the file does not hold predictions.
        """
        path = self.folder_of(key) / FILE
        return from_bytes(path.read_bytes(), repr(str(path))) if path.exists() else None

    def with_predictions(self, keys: Iterable[RunKey]) -> list[RunKey]:
        """The given runs whose predictions were recorded."""
        here = local_path(self.folder)
        if here is not None:  # joined as strings, which is faster than paths: there may be ten thousand
            return [key for key in keys if os.path.exists("/".join((str(here), *_parts(key), FILE)))]
        there = {path.parts[-4:-1] for path in self._files(FILE)}
        return [key for key in keys if _parts(key) in there]

    def write_predictions(self, key: RunKey, sets: Mapping[str, Predictions]) -> None:
        """Write the predictions of a run atomically, as `read_predictions` returns them."""
        path = self.folder_of(key) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, to_bytes(sets))

    def records(self) -> Iterator[RunRecord]:
        """All records, in the order of their keys.

        Raises:
            UsageError: If the folder does not exist or one of its files is not a record.
        """
        if not self.folder.is_dir():
            raise UsageError(f"Expected a folder of runs, but {str(self.folder)!r} does not exist.")
        yield from sorted(map(_read_record, self._files(RECORD)), key=lambda record: record.key)

    def declaration(self) -> dict[str, Any]:
        """What this folder was declared to hold.

        Returns:
            ``grids`` (tasks, methods, seeds), ``methods`` by name (loss and arguments), ``settings`` of each task, and
            the ``commands`` of the study, each once.

        Raises:
            UsageError: If the file is damaged.
        """
        path = self.folder / DECLARATION
        if not path.exists():
            return {"grids": [], "methods": {}, "settings": {}, "commands": []}
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            parts: dict[str, Any] = {name: dict(values[name]) for name in ("methods", "settings")}
            return {"grids": list(values["grids"]), **parts, "commands": list(values.get("commands", ()))}
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{path} is damaged ({error}). Delete it: the study writes it again.") from None

    def asked(self) -> list[RunKey]:
        """Every declared run, each once, in the order of the grids."""
        grids = self.declaration()["grids"]
        parts = (itertools.product(grid["tasks"], grid["seeds"], grid["methods"]) for grid in grids)
        return list(dict.fromkeys(RunKey(task, method, seed) for part in parts for task, seed, method in part))

    def declare(self, declaration: Mapping[str, Any]) -> None:
        """Write a declaration, as `declaration` returns it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / DECLARATION, declaration)

    @contextmanager
    def claim(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Claim what only one process may work on, by its `claim_name`, and yield whether it was free.

        The claim ends with the process, however that ends. At a URL there are no locks: everything can be claimed.
        With `wait`, wait until it is free.
        """
        if not self.local:
            yield True
            return
        path = self.folder / ".locks" / component(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock, about = FileLock(str(path) + ".lock"), path.with_name(path.name + ".json")
        try:
            lock.acquire(blocking=wait)
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
        """The process that holds a claim, as text, or None if it is free."""
        about = self.folder / ".locks" / f"{component(name)}.json"
        if not self.local or not about.exists():
            return None
        with self.claim(name) as free:
            if free:
                return None  # left behind by a process that was killed
        try:
            values = json.loads(about.read_text(encoding="utf-8"))
            return f"process {values['process']} on {values['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def _files(self, name: str) -> Iterator[Path | UPath]:
        """The files with a given name in the folders of runs."""
        here = local_path(self.folder)
        if here is not None:  # plain paths take a tenth of the time: there may be ten thousand
            yield from here.glob(f"*/*/seed*/{name}")
            return
        # A single listing of everything takes fewer requests than one for each folder.
        top = self.folder.path.rstrip("/") + "/"
        for place in self.folder.fs.find(top):
            parts = place.removeprefix(top).split("/")
            if len(parts) == 4 and parts[2].startswith("seed") and parts[3] == name:
                yield self.folder.joinpath(*parts)


def claim_name(block: Block) -> str:
    """The name by which a block is claimed."""
    return f"{block[0]} seed{block[1]}"


def _read_record(path: Path | UPath) -> RunRecord:
    try:
        record = RunRecord.from_dict(json.loads(path.read_text(encoding="utf-8")))
        if path.parts[-4:-1] != _parts(record.key):
            raise ValueError(f"it is the record of {record.key}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path} is not a run record ({error}). Delete it to repeat the run.") from None
    return record


def _parts(key: RunKey) -> tuple[str, str, str]:
    """The path of a run's folder below that of the study."""
    return component(key.task), component(key.method), f"seed{key.seed}"
