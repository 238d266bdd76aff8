"""Which trained models stay beside their records."""

from __future__ import annotations

from hf_elmix.study.spec import RunRecord
from hf_elmix.study.store import MODEL, Store, remove

__all__ = ["best_first", "keep_best"]


def keep_best(store: Store, records: list[RunRecord]) -> None:
    """Remove the models of all runs but the best one.

    Args:
        store: Where they are.
        records: The runs of one task and method, one for each seed.
    """
    kept = [record for record in records if (store.folder_of(record.key) / MODEL).exists()]
    for record in sorted(kept, key=best_first)[1:]:
        remove(store.folder_of(record.key) / MODEL)


def best_first(record: RunRecord) -> tuple[float, int]:
    """Where a run is sorted to: the best one comes first; of equal ones the one of the first seed."""
    score = record.scores.get(record.settings["score"], {}).get("last")
    good = record.status == "done" and score is not None
    return (-score if good else float("inf"), record.key.seed)
