"""The state of a study, from its folder alone."""

from __future__ import annotations

from functools import cache

from hf_elmix.errors import UsageError
from hf_elmix.study.claims import claim_name
from hf_elmix.study.spec import RunKey, RunRecord
from hf_elmix.study.store import DECLARATION, Store

__all__ = ["status_of"]


def status_of(store: Store) -> dict[RunKey, tuple[str, str]]:
    """The state of every run that was asked for or has a record.

    Args:
        store: The folder of runs.

    Returns:
        ``done``, ``running``, ``failed``, ``diverged`` or ``missing``, with a line of text, empty if it is done: why
        the run failed or diverged, which process is working on its block, or why it is missing.

    Raises:
        UsageError: If the folder holds no study, or a file in it is damaged.
    """
    ended = {record.key: (record.status, _reason(record)) for record in store.records()}
    asked = store.asked()
    if not ended and not asked:
        raise UsageError(f"{store.folder} holds neither run records nor {DECLARATION}: no study was started here.")
    holder = cache(lambda block: store.claims.holder(claim_name(block)))
    states: dict[RunKey, tuple[str, str]] = {}
    for key in dict.fromkeys([*asked, *ended]):
        if key in ended:
            states[key] = ended[key]
        elif (process := holder(key.block)) is not None:
            states[key] = "running", f"{process} is working on its block"
        else:
            states[key] = "missing", "not started, or stopped before it ended; the same command continues"
    return states


def _reason(record: RunRecord) -> str:
    """Why a run failed or diverged, in one line; empty if it is done."""
    if record.status == "diverged":
        return "the loss became NaN or infinite"
    return (record.error or "").split("\n")[0]
