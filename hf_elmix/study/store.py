"""The folder of a study: one JSON record for each run, and the declaration of all runs.

Layout below the folder, which may be local or any fsspec URL (``s3://bucket/runs``):

- ``<task>/<method>/seed<k>/record.json``, under the method's name as typed; beside it the trained model in ``model/``
  if it is kept, and its predictions on the evaluation rows in ``predictions.safetensors`` if they were recorded;
- ``study.json``: the declared runs, the settings of each task, and the commands of the study;
- ``.segments/``: shared prefixes of training, while they are needed (see `hf_elmix.study.checkpoints`);
- ``.locks/``: which blocks are being worked on, by which process (see `hf_elmix.study.claims`).
"""

from __future__ import annotations

import itertools
import math
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from upath import UPath

from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.predictions.records import FILE, LARGEST, Predictions, from_bytes, to_bytes
from hf_elmix.study.checkpoints import Checkpoints
from hf_elmix.study.claims import Claims, claim_name
from hf_elmix.study.files import (
    below,
    component,
    fresh,
    is_linked,
    local_path,
    no_link,
    put_folder,
    read_bytes,
    remove,
    unlink,
    write_bytes,
    write_json,
)
from hf_elmix.study.schema import FORMAT, Declaration, NewerFormat, parse
from hf_elmix.study.spec import Block, RunKey, RunRecord

__all__ = ["DECLARATION", "MODEL", "RECORD", "Store", "read_record"]

T = TypeVar("T")

MOST = 10**6  # runs of a study; a declaration of a few lines could ask for more than there is time or memory for

RECORD = "record.json"
DECLARATION = "study.json"
OWN = (DECLARATION, "comparison.json", "report")  # and names that begin with a dot
MODEL = "model"
MODEL_FILES = (  # what `save_pretrained` of models and tokenizers writes
    *("*config.json", "model*.safetensors", "model.safetensors.index.json", "adapter_model.safetensors", "*.model"),
    "README.md",  # of models that are not of transformers
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "chat_template.j*"),
    *("vocab.*", "merges.txt", "bpe.codes"),
)


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
            if self.local and "://" in str(folder) and not str(folder).startswith(("file://", "local://")):
                raise ValueError(f"Expected a folder or a URL of a known protocol, not {str(folder).split(':')[0]}.")
            if not self.local:
                (self._folder / DECLARATION).exists()
        except Exception as error:  # unknown protocol, missing package, network, credentials: errors of any type
            raise UsageError(f"Cannot use {str(folder)!r}: {in_one_line(error)}") from error
        if self.local and self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"Expected a folder of runs, but {str(self.folder)!r} is a file.")
        self.claims = Claims(self._folder)

    def check_writable(self) -> None:
        """Write a file and delete it again, as at a URL nothing else tells whether that is possible.

        Raises:
            UsageError: If it is not.
        """
        probe = self.folder / f".{uuid.uuid4().hex}"
        try:
            write_bytes(probe, b"Can this be written?")
            unlink(probe)
        except OSError as error:
            raise UsageError(
                f"Expected a folder or URL that can be written to, but got {str(self.folder)!r}: {in_one_line(error)}"
            ) from error

    @property
    def folder(self) -> UPath:
        """The folder of the study."""
        return fresh(self._folder)

    def folder_of(self, key: RunKey) -> UPath:
        """The folder of a run; names are quoted where they are not one path component."""
        return self.folder.joinpath(*_parts(key))

    def segments_of(self, task: str, seed: int) -> UPath:
        """The folder for the shared prefixes of a block."""
        return self.folder / ".segments" / component(task) / component(f"seed{seed}")

    def checkpoints(self, block: Block) -> Checkpoints:
        """The shared prefixes of a block.

        Raises:
            StorageError: If a link has taken the place of their folder.
        """
        return Checkpoints(no_link(self.segments_of(*block), self.folder))

    def check_no_links(self, keys: Iterable[RunKey]) -> None:
        """Refuse folders of a study that are links or are reached through one: it writes below its folder only.

        Raises:
            UsageError: If there is one.
        """
        places = {place for key in keys for place in (self.folder_of(key), self.segments_of(*key.block))}
        places.add(self.claims.folder)
        if linked := next((path for path in sorted(places) if is_linked(path, self.folder)), None):
            raise UsageError(f"Expected folders below {str(self.folder)!r}, but {str(linked)!r} is a link. Remove it.")

    def read(self, key: RunKey) -> RunRecord | None:
        """The record of a run, or None if it does not exist.

        Raises:
            UsageError: If the file is not a record.
        """
        try:
            return self._read_record(self.folder_of(key) / RECORD)
        except FileNotFoundError:
            return None

    def has_result(self, key: RunKey) -> bool:
        """Whether a run has a record that is not ``failed``."""
        record = self.read(key)
        return record is not None and record.status != "failed"

    def write(self, record: RunRecord) -> UPath:
        """Write a record atomically, and return its path; an earlier one of the same run stays unless it is failed."""
        path = no_link(self.folder_of(record.key), self.folder) / RECORD
        if self.has_result(record.key):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.local:  # a process that was killed may have left half a model
            for left in path.parent.glob(f".{MODEL}.*"):
                remove(left)
        write_json(path, record.to_dict())
        return path

    def model_files(self, key: RunKey) -> list[UPath]:
        """The files of the model that a run has kept; links are not followed."""
        return self._model_files(self.folder_of(key))

    def put_model(self, key: RunKey, source: Path) -> None:
        """Move a model beside the record of its run, in place of an earlier one; other files there stay."""
        folder = no_link(self.folder_of(key) / MODEL, self.folder)
        self.delete_model(key)
        if not folder.exists():
            put_folder(source, folder)
            return
        for path in (path for path in source.rglob("*") if path.is_file()):
            copy = folder / path.relative_to(source).as_posix()
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(copy, path.read_bytes())

    def delete_model(self, key: RunKey) -> None:
        """Delete the model that a run has kept, and nothing else that may be in its folder."""
        for path in self.model_files(key):
            unlink(path)
        self._remove_empty(self.folder_of(key) / MODEL)

    def clear(self, task: str, keys: Iterable[RunKey]) -> None:
        """Delete the files that studies made for a task, and nothing else; links are not followed.

        Args:
            task: Name of the task, all of whose runs with a record are deleted.
            keys: Runs of the task that may have left something without a record.
        """
        made = {*self._places(RECORD), *map(_parts, keys)}
        ours = [name for file in (RECORD, FILE) for name in (file, f".{file}.*.new")]
        for parts in (parts for parts in made if parts[0] == _task_folder(task)):
            folder = self.folder.joinpath(*parts)
            if is_linked(folder, self.folder) or not folder.is_dir():
                continue
            models = self._model_files(folder)
            for path in [*models, *(path for path in folder.iterdir() if _is_among(path, ours))]:
                unlink(path)
            for left in folder.glob(f".{MODEL}.*") if self.local else ():
                remove(left)
            self._remove_empty(folder / MODEL)
            self._remove_empty(folder)
        if not is_linked(segments := self.folder / ".segments" / component(task), self.folder):
            remove(segments)

    def _model_files(self, folder: UPath) -> list[UPath]:
        """The files of the model in the folder of a run."""
        place = folder / MODEL
        if is_linked(place, self.folder) or not place.is_dir():
            return []
        saved = [path for path in place.iterdir() if _is_among(path, MODEL_FILES)]
        return [path for path in saved if path.is_file() and not is_linked(path, self.folder)]

    def _remove_empty(self, path: UPath) -> None:
        """Remove a folder below that of the study, and those above it, as far as they are empty."""
        with suppress(OSError):  # it does not exist, is a link or is not empty
            while self.local and len(path.parts) > len(self.folder.parts):
                path.rmdir()
                path = path.parent

    def read_predictions(self, key: RunKey) -> dict[str, Predictions] | None:
        """The predictions during training by evaluation set (``""`` for the only one), or None if not recorded.

        Raises:
            UsageError: If the file does not hold predictions.
        """
        path = self.folder_of(key) / FILE
        try:
            data = read_bytes(path, LARGEST)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UsageError(f"Expected {str(path)!r} to hold predictions, but {error}.") from None
        return from_bytes(data, repr(str(path)))

    def with_predictions(self, keys: Iterable[RunKey]) -> list[RunKey]:
        """The given runs whose predictions were recorded."""
        here = local_path(self.folder)
        if here is not None:  # joined as strings, which is faster than paths: there may be ten thousand
            return [key for key in keys if os.path.exists("/".join((str(here), *_parts(key), FILE)))]
        there = set(self._places(FILE))
        return [key for key in keys if _parts(key) in there]

    def write_predictions(self, key: RunKey, sets: Mapping[str, Predictions]) -> None:
        """Write the predictions of a run atomically, as `read_predictions` returns them."""
        path = no_link(self.folder_of(key), self.folder) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, to_bytes(sets))

    def records(self) -> Iterator[RunRecord]:
        """All records, in the order of their keys; each is read when it is asked for.

        Raises:
            UsageError: If the folder does not exist or one of its files is not a record.
        """
        if not self.folder.is_dir():
            raise UsageError(f"Expected a folder of runs, but {str(self.folder)!r} does not exist.")
        folder = local_path(self.folder) or self.folder  # joining plain paths is faster
        for place in self._places(RECORD):
            yield self._read_record(folder.joinpath(*place, RECORD))

    def declaration(self) -> dict[str, Any]:
        """What this folder was declared to hold.

        Returns:
            ``grids`` (tasks, methods, seeds), ``methods`` by name (loss and arguments), ``settings`` of each task, and
            the ``commands`` of the study, each once.

        Raises:
            UsageError: If the file is damaged.
        """
        empty: dict[str, Any] = {"grids": [], "methods": {}, "settings": {}, "commands": []}
        path = self.folder / DECLARATION
        try:
            declared = _read(
                path, partial(parse, Declaration), "{} is damaged ({}). Delete it: the study writes it again."
            )
        except FileNotFoundError:
            return empty
        return {name: declared.get(name, values) for name, values in empty.items()}

    def asked(self) -> list[RunKey]:
        """Every declared run, each once, in the order of the grids."""
        grids = self.declaration()["grids"]
        count = sum(math.prod(map(len, grid.values())) for grid in grids)
        if count > MOST:
            raise UsageError(f"{self.folder / DECLARATION} asks for {count:,} runs, more than {MOST:,}. Delete it.")
        parts = (itertools.product(grid["tasks"], grid["seeds"], grid["methods"]) for grid in grids)
        return list(dict.fromkeys(RunKey(task, method, seed) for part in parts for task, seed, method in part))

    def declare(self, declaration: Mapping[str, Any]) -> None:
        """Write a declaration, as `declaration` returns it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / DECLARATION, {**declaration, "format": FORMAT})

    def check_block(self, block: Block) -> None:
        """Make sure that a block that this process has claimed is still its own, and in the folder of the study.

        Raises:
            OSError: If its lock file was deleted, so that another process may be doing the same work.
            StorageError: If a link has taken the place of the folder of its checkpoints.
        """
        no_link(self.segments_of(*block), self.folder)
        self.claims.check(claim_name(block))

    def _read_record(self, path: Path | UPath) -> RunRecord:
        """The record in a file, which must be in the place of its run."""
        record = read_record(path)
        if path.parts[-4:-1] != _parts(record.key):
            raise UsageError(f"{path} is the record of {record.key}, which has another place. Delete it.")
        return record

    def _places(self, name: str) -> list[tuple[str, str, str]]:
        """The folders of runs, as `_parts` gives them, that hold a file with this name, in the order of their keys."""
        here = local_path(self.folder)
        return sorted(_on_disk(str(here), name) if here is not None else self._at_url(name), key=_order)

    def _at_url(self, name: str) -> Iterator[tuple[str, str, str]]:
        """The same at a URL, from one listing of everything, which takes fewer requests than one for each folder."""
        top = self.folder.path.rstrip("/") + "/"
        for place in self.folder.fs.find(top):
            parts = place.removeprefix(top).split("/")
            if len(parts) == 4 and parts[2].startswith("seed") and parts[3] == name:
                with suppress(ValueError):  # a name that leads elsewhere is not that of a run
                    below(self.folder, "/".join(parts))
                    yield parts[0], parts[1], parts[2]


def _is_among(path: UPath, patterns: Iterable[str]) -> bool:
    return any(fnmatch(path.name, pattern) for pattern in patterns)


def read_record(path: Path | UPath) -> RunRecord:
    """The record in a file.

    Raises:
        UsageError: If the file is not a record.
        FileNotFoundError: If there is no file.
    """
    return _read(path, RunRecord.from_json, "{} is not a run record ({}). Delete it to repeat the run.")


def _read(path: Path | UPath, read: Callable[[bytes], T], problem: str) -> T:
    """What a file holds; `problem` says what is wrong with a damaged one, with gaps for its path and an error."""
    try:
        return read(read_bytes(path))
    except NewerFormat as error:
        raise UsageError(f"{path} was written by a newer hf_elmix ({error}). Update hf_elmix to read it.") from None
    except ValueError as error:
        raise UsageError(problem.format(path, error)) from None


def _parts(key: RunKey) -> tuple[str, str, str]:
    """The path of a run's folder below that of the study."""
    return _task_folder(key.task), component(key.method), component(f"seed{key.seed}")


def _task_folder(task: str) -> str:
    """The name of a task's folder, beside which the study has files and folders of its own."""
    name = component(task)
    return f"%{ord(name[0]):02X}{name[1:]}" if name.startswith(".") or name in OWN else name


def _order(parts: tuple[str, str, str]) -> tuple[str, str, int, str]:
    """Sort key of the folders of runs, which is that of their keys."""
    seed = parts[2].removeprefix("seed")
    return unquote(parts[0]), unquote(parts[1]), int(seed) if seed.isdecimal() and len(seed) < 20 else -1, seed


def _on_disk(folder: str, name: str) -> Iterator[tuple[str, str, str]]:
    """The folders of runs that hold a file, below a local one; there may be ten thousand, and paths are slow."""
    for task in _folders(folder):
        for method in _folders(task.path):
            for seed in _folders(method.path):
                if seed.name.startswith("seed") and os.path.exists(f"{seed.path}/{name}"):
                    yield task.name, method.name, seed.name


def _folders(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if entry.is_dir()]
