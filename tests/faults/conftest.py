"""Studies as processes that can be killed, and what a study that is complete must look like."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # the processes that are started here import fault_drivers too

if not Path("/proc/self/stat").exists():  # which is where these tests look for processes that are left over
    collect_ignore_glob = ["test_*.py"]

PATIENCE = 600.0  # seconds that nothing here needs, however busy the machine, unless it hangs


@dataclass
class Started:
    """A study in a process of its own: a forked one or a real command."""

    process: Any
    log: Path
    pids: Path | None = None
    start: float = field(default_factory=time.monotonic)

    def said(self) -> str:
        """All it has written to standard output and error."""
        return self.log.read_text()

    def lines(self) -> list[str]:
        """What it has said on its own behalf: no progress."""
        return [line for line in self.said().splitlines() if line.startswith("glue-runs: ")]

    def wait(self) -> int:
        """Wait for its end; its exit code."""
        if isinstance(self.process, subprocess.Popen):
            return self.process.wait(PATIENCE)
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, f"hangs:\n{self.said()}"
        return self.process.exitcode

    def ended(self) -> bool:
        """Whether it has ended."""
        poll = getattr(self.process, "poll", lambda: self.process.exitcode)
        return poll() is not None

    def kill(self) -> None:
        """End it as the out-of-memory killer does, and nothing else with it."""
        with suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(self.process.pid, signal.SIGKILL)
        self.wait()

    def alive(self) -> list[int]:
        """The processes of it that are left."""
        if self.pids is None:
            return [pid for pid in _processes() if _session(pid) == self.process.pid]
        return [int(pid) for pid in self.pids.read_text().split() if _session(int(pid)) is not None]

    def settle(self) -> None:
        """Wait until no process of it is left."""
        deadline = time.monotonic() + PATIENCE
        while left := self.alive():
            assert time.monotonic() < deadline, f"{left} are left after {PATIENCE} s"
            time.sleep(0.02)


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _session(pid: int) -> int | None:
    """The session of a process, or None if it is none that runs."""
    try:
        state, _, _, session, *_ = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(session)


@pytest.fixture(scope="session")
def fork_server() -> None:
    """A process that has everything imported and that drivers and workers are forked from."""
    context = multiprocessing.get_context("forkserver")
    import fault_drivers

    context.set_forkserver_preload(fault_drivers.PRELOAD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # the server itself takes no path over
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("COLUMNS", "200")
        first = context.Process(target=print)
        first.start()
        first.join()


@pytest.fixture(scope="session")
def begin_study(fork_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Started]]:
    """Starts the toy study below a folder, in a forked process: ``begin_study(folder, "--workers", "2")``."""
    from fault_drivers import command

    started: list[Started] = []

    notes = tmp_path_factory.mktemp("notes")

    def begin(folder: Path, *words: str, **faults: Any) -> Started:
        number = len(started)
        log, pids = (notes / f"{number}.{kind}" for kind in ("log", "pids"))
        log.touch()
        pids.touch()
        words = ("study", "--output_dir", str(folder), *words)
        process = multiprocessing.get_context("forkserver").Process(
            target=command, args=(list(words), str(log), str(pids)), kwargs=faults
        )
        process.start()
        started.append(Started(process, log, pids))
        return started[-1]

    yield begin
    for one in started:
        for pid in one.alive():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def begin_command(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts a command as a user does, in a session of its own: ``begin_command("study", "--output_dir", ...)``."""
    started: list[Started] = []

    def begin(*words: str, **environment: str) -> Started:
        log = tmp_path / f"command-{len(started)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "glue_runs", *words],
                stdout=out,
                stderr=out,
                env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment},
                start_new_session=True,
                # A process started from a background job inherits a deaf ear for Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        started.append(Started(process, log))
        return started[-1]

    yield begin
    for one in started:
        for pid in one.alive():
            os.kill(pid, signal.SIGKILL)


def result_of(record: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on how a run came about."""
    cost = record["cost"]
    steps = cost["steps_trained"] + cost["steps_inherited"]
    kept = {name: record[name] for name in ("key", "status", "scores", "training", "settings", "error")}
    return {**kept, "steps": steps}


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """All records below a folder."""
    return {str(path.relative_to(folder)): json.loads(path.read_text()) for path in folder.glob("*/*/*/record.json")}


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """The results of all records below a folder, their scores of speed left out."""
    return {name: result_of(record) for name, record in records(folder).items()}


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """The files of all records, each with what tells it from one that was written anew."""
    files = folder.glob("*/*/*/record.json")
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def strays(folder: Path) -> list[str]:
    """Files that a study that is complete has no use for."""
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    wanted = [name.name in ("record.json", "study.json") or name.match(".locks/*.lock") for name in names]
    return [str(name) for name, is_wanted in zip(names, wanted, strict=True) if not is_wanted]


@pytest.fixture(scope="session")
def reference(
    begin_study: Callable[..., Started], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What an undisturbed study gives that shares nothing."""
    folder = tmp_path_factory.mktemp("reference") / "runs"
    started = begin_study(folder, "--no_sharing")
    assert started.wait() == 0, started.said()
    assert len(results(folder)) == 8
    return results(folder)


@pytest.fixture(scope="session")
def check_complete(reference: dict[str, dict[str, Any]]) -> Callable[[Path], None]:
    """Checks that a toy study is complete, correct and leaves nothing else behind."""

    def check(folder: Path, models: int = 0) -> None:
        assert results(folder) == reference
        kept = [path.parent for path in folder.glob("*/*/seed*/model/model.safetensors")]
        assert len(kept) == models
        assert [name for name in strays(folder) if (folder / name).parent not in kept] == []

    return check


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture(name="snapshot")
def snapshot_fixture() -> Callable[[Path], dict[str, tuple[int, int, bytes]]]:
    return snapshot


@pytest.fixture(name="records")
def records_fixture() -> Callable[[Path], dict[str, dict[str, Any]]]:
    return records


@pytest.fixture(name="strays")
def strays_fixture() -> Callable[[Path], list[str]]:
    return strays


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of generated rows."""
    from glue_runs.pocket.dataset import write_dataset

    return write_dataset(tmp_path_factory.mktemp("rows"), train_rows=32, validation_rows=16)


@pytest.fixture(scope="session")
def words(rows: Path) -> list[str]:
    """The words of a study of generated rows with the package's encoder, all but the output folder."""
    from glue_runs.pocket.encoder import encoder_path

    what = ["--dataset_name", str(rows), "--model_name_or_path", str(encoder_path()), "--tasks", "cola"]
    return [*what, "--seeds", "0", "1", "--max_steps", "20", "--per_device_train_batch_size", "2", "--use_cpu"]


@pytest.fixture(scope="session")
def undisturbed(
    begin_study: Callable[..., Started], words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What that study gives undisturbed, with nothing shared."""
    folder = tmp_path_factory.mktemp("undisturbed") / "runs"
    started = begin_study(folder, *words, "--no_sharing")
    assert started.wait() == 0, started.said()
    assert len(results(folder)) == 8
    return results(folder)


@pytest.fixture(name="results")
def results_fixture() -> Callable[[Path], dict[str, dict[str, Any]]]:
    return results
