"""How far a study is, from its folder alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from hf_elmix.errors import UsageError
from hf_elmix.study.spec import RunKey
from hf_elmix.study.store import DECLARATION, Store, claim_of

__all__ = ["status_of"]


def status_of(store: Store) -> dict[RunKey, tuple[str, str]]:
    """State of every run that was asked for or has a record, and the reason for it where there is one.

    Args:
        store: The folder of runs.

    Returns:
        ``done``, ``running``, ``failed``, ``diverged`` or ``missing``, with a line of text: why it failed, who is
        doing its experiment, why it is missing.

    Raises:
        UsageError: (a ValueError) If the folder holds no study, or a file in it is damaged.
    """
    records = {record.key: record for record in store.records()}
    asked = list(dict.fromkeys(key for grid in store.declaration()["grids"] for key in _keys(**grid)))
    if not records and not asked:
        raise UsageError(
            f"{store.folder} holds neither records of runs nor {DECLARATION}, so no study was begun here."
        )
    holders = {experiment: store.holder(claim_of(*experiment)) for experiment in _experiments(asked)}
    states: dict[RunKey, tuple[str, str]] = {}
    for key in dict.fromkeys([*asked, *records]):
        record, holder = records.get(key), holders.get((key.problem, key.seed))
        if record is not None:
            states[key] = record.status, (record.error or "").split("\n")[0]
        elif holder is not None:
            states[key] = "running", f"its experiment is being done by {holder}"
        else:
            states[key] = "missing", "not begun, or stopped before it ended; the command that began it goes on"
    return states


def _keys(problems: Iterable[str], methods: Iterable[str], seeds: Iterable[int]) -> list[RunKey]:
    grid = itertools.product(problems, seeds, methods)
    return [RunKey(problem, method, seed) for problem, seed, method in grid]


def _experiments(keys: Iterable[RunKey]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((key.problem, key.seed) for key in keys))
