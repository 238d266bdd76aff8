"""The remaining work of a grid, and its progress."""

from __future__ import annotations

import time
from collections import Counter, deque
from contextlib import ExitStack

from hf_elmix.study.claims import claim_name
from hf_elmix.study.settings import check_record, is_missing
from hf_elmix.study.shared_prefixes import Branch, Outcome, roots, share
from hf_elmix.study.spec import Block, RunKey, RunRecord, Study
from hf_elmix.study.store import Store

__all__ = ["GridState", "Queue"]

ATTEMPTS = 2  # to train a branch whose process is killed, which the branch may not have caused
WINDOW = 30.0  # seconds over which steps per second are counted


class GridState:
    """The state of each run and how much of the work is done; the queue updates it, the progress view reads it.

    Attributes:
        runs: ``missing``, ``running``, or the status of the record, for each run.
        work: The whole work, in units of `Task.work`.
    """

    def __init__(self, runs: dict[RunKey, str]) -> None:
        self.runs, self.work = runs, 0.0
        self._done: dict[Branch, float] = {}  # the part of `work` that each branch has done
        self._at: dict[Branch, int] = {}  # the last step that each branch has reported
        self._steps: deque[tuple[float, int]] = deque()  # when steps were reported last, and how many
        self._start: float | None = None

    def step(self, branch: Branch, step: int, steps: int, work: float) -> None:
        """Note which step a branch has completed, of a run whose whole cost is `work`."""
        now = time.monotonic()
        self._start = now if self._start is None else self._start
        self._done[branch] = max(self._done.get(branch, 0.0), (step - branch.start) / steps * work)
        self._steps.append((now, step - self._at.get(branch, branch.start)))
        self._at[branch] = step
        while self._steps[0][0] < now - WINDOW:
            self._steps.popleft()
        self.runs |= dict.fromkeys(branch.keys, "running")

    @property
    def ended(self) -> int:
        """Number of runs with a record."""
        return sum(state in ("done", "failed", "diverged") for state in self.runs.values())

    @property
    def share(self) -> float:
        """Share of the work that is done, in [0, 1]."""
        return min(1.0, sum(self._done.values()) / self.work) if self.work else 1.0

    def pace(self) -> tuple[float, float] | None:
        """Steps per second and seconds left, or None in the first second, when both would be guesses."""
        now = time.monotonic()
        if self._start is None or now < self._start + 1 or not self.share:
            return None
        recent = sum(count for moment, count in self._steps if moment > now - WINDOW)
        return recent / min(WINDOW, now - self._start), (now - self._start) * (1 - self.share) / self.share


class Queue:
    """The branches that are still to be trained. A block is claimed from its first branch until its last one ends."""

    patience = 2.0  # seconds before trying again to claim what another process is working on

    def __init__(
        self, study: Study, store: Store, runs: dict[RunKey, str], *, sharing: bool, retry_failed: bool
    ) -> None:
        self.study, self.store, self.sharing, self.retry_failed = study, store, sharing, retry_failed
        self.state = GridState(runs)
        self.missing: dict[Block, list[RunKey]] = {}
        for key in (key for key, state in runs.items() if state == "missing"):
            self.missing.setdefault(key.block, []).append(key)
        self.waiting = deque(self.missing)
        self.look_again = 0.0  # when to try that
        self.ready: list[Branch] = []  # a stack, so that what continues from a checkpoint comes before new blocks
        self.open: Counter[Block] = Counter()  # branches that are ready or being trained
        self.parents: dict[Branch, str] = {}  # the checkpoint that a branch continues from
        self.attempts: Counter[Branch] = Counter()
        self.claims: dict[Block, ExitStack] = {}
        self.task_work = {task.name: task.work for task in study.tasks}
        losses = {method.name: method.loss for method in study.candidates}
        shares: dict[tuple[tuple[str, ...], ...], float] = {}  # most blocks have the same branches
        for branch in (branch for block in self.waiting for branch in self._roots(block, self.missing[block])):
            group = branch.among, branch.methods
            shares[group] = shares[group] if group in shares else share(branch, losses)
            self.state.work += self.task_work[branch.task] * shares[group]

    def close(self) -> None:
        """Give up all claims."""
        for claim in self.claims.values():
            claim.close()

    @property
    def elsewhere(self) -> str:
        """The blocks that other processes are working on, as text."""
        return ", ".join(f"{task} seed {seed}" for task, seed in sorted(self.waiting))

    def take(self) -> Branch | None:
        """The next branch, or None if there is none that this process can train now."""
        if not self.ready and time.monotonic() >= self.look_again:
            for _ in range(len(self.waiting)):
                if not self.ready:
                    self._start(self.waiting.popleft())
            self.look_again = time.monotonic() + self.patience if self.waiting and not self.ready else 0.0
        return self.ready.pop() if self.ready else None

    def progress(self, branch: Branch, step: int, steps: int) -> None:
        """Note a completed optimizer step of a branch.

        Raises:
            OSError: If another process may be working on its block, or its checkpoints lie elsewhere now.
        """
        self.store.check_block((branch.task, branch.seed))
        self.state.step(branch, step, steps, self.task_work[branch.task])

    def end(self, outcome: Outcome) -> tuple[RunRecord, ...]:
        """Write and return the records of a branch that has ended, and add the branches that continue from it."""
        branch = outcome.branch
        block = branch.task, branch.seed
        self.store.check_block(block)
        self.attempts[branch] += 1
        if outcome.died is not None and self.attempts[branch] < ATTEMPTS:
            self.ready.append(branch)
            return ()
        records = outcome.records if outcome.died is None else self._failed(branch, outcome.died)
        for record in records:
            self.store.write(record)
        records = tuple(self.store.read(record.key) or record for record in records)  # a finished one stays
        for record in records:
            self.state.runs[record.key] = record.status
        self.ready += reversed(outcome.children)
        self.parents |= {child: outcome.checkpoint for child in outcome.children if outcome.checkpoint is not None}
        self.open[block] += len(outcome.children) - 1
        checkpoints = self.store.checkpoints(block)
        continued_from = self.parents.pop(branch, None)
        if not self.open[block]:
            checkpoints.clear()
            self.claims.pop(block).close()
        elif continued_from is not None and continued_from not in self.parents.values():
            checkpoints.delete(continued_from)
        return records

    def _start(self, block: Block) -> None:
        """Claim a block and add its branches, or put it back if another process is working on it."""
        claim = ExitStack()
        if not claim.enter_context(self.store.claims.hold(claim_name(block))):
            self.waiting.append(block)
            return
        missing = []
        for key in self.missing[block]:
            record = self.store.read(key)  # another process may have written one since
            if record is None or is_missing(self.study, record, self.retry_failed):
                missing.append(key)
            else:
                check_record(self.study, record, self.store)
                self.state.runs[key] = record.status
        branches = self._roots(block, missing)
        if not branches:
            self.store.checkpoints(block).clear()
            claim.close()
            return
        self.claims[block] = claim
        self.ready += reversed(branches)
        self.open[block] = len(branches)

    def _roots(self, block: Block, missing: list[RunKey]) -> list[Branch]:
        """The branches that a block starts with."""
        return roots(block, self.study.candidates, [key.method for key in missing], sharing=self.sharing)

    def _failed(self, branch: Branch, died: str) -> tuple[RunRecord, ...]:
        """Failed records for the runs of a branch whose process has died too often."""
        error = f"The process of this run died {ATTEMPTS} times, most recently with {died}."
        cost = {"seconds": 0.0, "steps_trained": 0, "steps_inherited": 0}
        runs = self.study.runs()
        return tuple(
            RunRecord(key, "failed", {}, [], self.study.settings(*runs[key]), {}, cost, error) for key in branch.keys
        )
