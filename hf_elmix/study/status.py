"""The state of a study, from its folder alone."""

from __future__ import annotations

from hf_elmix.errors import UsageError
from hf_elmix.study.spec import RunKey
from hf_elmix.study.store import DECLARATION, Store, claim_name

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
    records = {record.key: record for record in store.records()}
    asked = store.asked()
    if not records and not asked:
        raise UsageError(f"{store.folder} holds neither run records nor {DECLARATION}: no study was started here.")
    holders = {block: store.holder(claim_name(block)) for block in dict.fromkeys(key.block for key in asked)}
    states: dict[RunKey, tuple[str, str]] = {}
    for key in dict.fromkeys([*asked, *records]):
        record, holder = records.get(key), holders.get(key.block)
        if record is not None:
            reason = "the loss became NaN or infinite" if record.status == "diverged" else record.error or ""
            states[key] = record.status, reason.split("\n")[0]
        elif holder is not None:
            states[key] = "running", f"{holder} is working on its block"
        else:
            states[key] = "missing", "not started, or stopped before it ended; the same command continues"
    return states
