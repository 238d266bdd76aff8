"""Trainer checkpoints between a segment of training and those that continue from it.

A checkpoint is a folder named after everything that determines it, so one that is found under its name can always be
used: by the branches that wait for it, or by a study that was killed and started again. Its manifest, written last,
holds a digest of each file; a checkpoint that does not match its digests is discarded. Training continues from a
private copy, whose digests are compared: what happens to the checkpoint afterwards does not matter.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from upath import UPath

from hf_elmix.disk import check_regular, digest_of
from hf_elmix.study.files import (
    StorageError,
    as_storage_error,
    below,
    fresh,
    local_path,
    put_folder,
    read_bytes,
    remove,
    storage_fault,
)
from hf_elmix.study.schema import Manifest, parse

__all__ = ["Checkpoints", "checkpoint_name", "is_intact"]

MANIFEST = "~manifest.json"  # sorts after all other files, which are written before it


def checkpoint_name(stop: int, identity: Mapping[str, Any]) -> str:
    """``step<stop>-<16 hexadecimal digits>``, a digest of everything that determines the checkpoint."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"step{stop}-{digest[:16]}"


class Checkpoints:
    """The checkpoints of one block, in a local folder or at an fsspec URL."""

    def __init__(self, folder: UPath) -> None:
        self._folder = folder

    @property
    def folder(self) -> UPath:
        """The folder of the checkpoints."""
        return fresh(self._folder)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary local folder, on the file system of the checkpoints if that is local."""
        here = local_path(self.folder)
        try:
            if here is not None:
                here.mkdir(parents=True, exist_ok=True)
            prefix = "elmix-" if here is None else ".work-"
            folder = tempfile.TemporaryDirectory(prefix=prefix, dir=here, ignore_cleanup_errors=True)
        except OSError as error:  # also if a file is in its place: no run is to blame
            raise StorageError(error.errno, error.strerror, error.filename or tempfile.gettempdir()) from error
        with folder as name:
            yield Path(name)

    def save(self, name: str, source: Path, notes: Mapping[str, Any]) -> None:
        """Move or copy a folder into place as a checkpoint, with notes (plain JSON) that `find` returns."""
        files = sorted(path for path in source.rglob("*") if path.is_file())
        digests = {path.relative_to(source).as_posix(): digest_of(path) for path in files}
        (source / MANIFEST).write_text(json.dumps({"files": digests, "notes": notes}), encoding="utf-8")
        try:
            put_folder(source, self.folder / name)
        except OSError:
            if not self.has(name):  # else another worker has saved the same checkpoint at the same time
                raise

    def has(self, name: str) -> bool:
        """Whether a checkpoint of this name exists, intact or not."""
        return (self.folder / name / MANIFEST).exists()

    def find(self, name: str, scratch: Path) -> tuple[Path, dict[str, Any]] | None:
        """A copy (in `scratch`) and the notes of an intact checkpoint, or None; removes a damaged one."""
        place = self.folder / name
        if not self.has(name):
            return None
        try:
            folder = _fetch(place, scratch / name)
            if is_intact(folder):
                return folder, dict(_manifest(folder)["notes"])
        except OSError as error:
            if storage_fault(error):  # no fault of the checkpoint
                raise
        except ValueError:
            pass  # a truncated manifest, or one that names files elsewhere
        remove(place)
        return None

    def delete(self, name: str) -> None:
        """Remove one checkpoint."""
        remove(self.folder / name)

    def clear(self) -> None:
        """Remove all checkpoints and whatever a killed process left beside them."""
        remove(self.folder)


def is_intact(folder: Path) -> bool:
    """Whether a local copy of a checkpoint has all files that its manifest names, with the same content.

    Raises:
        OSError: If a file is missing.
        ValueError: If the manifest is damaged, or names a file outside the folder.
    """
    return all(digest_of(below(folder, name)) == digest for name, digest in _manifest(folder)["files"].items())


def _manifest(folder: Path) -> Manifest:
    return parse(Manifest, read_bytes(folder / MANIFEST))


def _fetch(place: UPath, target: Path) -> Path:
    """Copy the files that the manifest of a checkpoint names."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    _check_no_links(place)
    (target / MANIFEST).write_bytes(read_bytes(place / MANIFEST))
    names = list(_manifest(target)["files"])
    originals, copies = [below(place, name) for name in names], [below(target, name) for name in names]
    for original in originals:
        _check_no_links(place, original)
    for copy in copies:
        copy.parent.mkdir(parents=True, exist_ok=True)
    with as_storage_error(place):
        place.fs.get([original.path for original in originals], [str(copy) for copy in copies])
    return target


def _check_no_links(place: UPath, path: UPath | None = None) -> None:
    """Raise a `ValueError` if a checkpoint is a link, or a file of it is none that lies in its folder."""
    here = local_path(place)
    if here is None:
        return
    if here.is_symlink():
        raise ValueError("it is a link")
    if path is not None:
        check_regular(os.lstat(str(path)))
        if os.path.realpath(str(path)) != os.path.join(os.path.realpath(here), str(path.relative_to(place))):
            raise ValueError("it is reached through a link")
