"""Records on disk: one JSON file for each run, written whole or not at all.

Layout: ``<folder>/<problem>/<method>/seed<k>/record.json``, the method as it was typed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hf_elmix.errors import UsageError
from hf_elmix.study.spec import RunKey, RunRecord

__all__ = ["RECORD", "Store"]

RECORD = "record.json"


class Store:
    """The records below one folder.

    Args:
        folder: Where they are; made when the first record is written.

    Raises:
        UsageError: (a ValueError) If there is a file in the folder's place.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"Expected a folder of runs, but {str(folder)!r} is a file.")

    def folder_of(self, key: RunKey) -> Path:
        """Folder of a run. Names are quoted where they would not be one path component."""
        return self.folder / _component(key.problem) / _component(key.method) / f"seed{key.seed}"

    def read(self, key: RunKey) -> RunRecord | None:
        """The record of a run, or None if there is none.

        Raises:
            UsageError: (a ValueError) If the file is no record.
        """
        path = self.folder_of(key) / RECORD
        return self._read(path) if path.exists() else None

    def write(self, record: RunRecord) -> Path:
        """Write a record by rename, so that nobody ever sees half of it."""
        path = self.folder_of(record.key) / RECORD
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record.to_dict())
        return path

    def records(self) -> Iterator[RunRecord]:
        """All records, in the order of their keys.

        Raises:
            UsageError: (a ValueError) If the folder does not exist or one of its files is no record.
        """
        if not self.folder.is_dir():
            raise UsageError(f"Expected a folder of runs, but {str(self.folder)!r} is none.")
        found = [self._read(path) for path in self.folder.glob(f"*/*/seed*/{RECORD}")]
        yield from sorted(found, key=lambda record: record.key)

    def _read(self, path: Path) -> RunRecord:
        try:
            record = RunRecord.from_dict(json.loads(path.read_text(encoding="utf-8")))
            if path.parent != self.folder_of(record.key):
                raise ValueError(f"it is the record of {record.key}")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(
                f"{path} is no record of a run ({error}). Delete it to have the run done again."
            ) from None
        return record


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file that a person can read: whole under a temporary name, then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as out:
            out.write(json.dumps(_strict(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _strict(value: Any) -> Any:
    """Null for numbers that are none, which JSON does not know."""
    if isinstance(value, Mapping):
        return {name: _strict(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _component(name: str) -> str:
    """A name as one path component; the paper's regimes stay as they are."""
    quoted = quote(name, safe=" ,@:")
    return quoted if quoted.strip(".") else quoted.replace(".", "%2E") or "%"
