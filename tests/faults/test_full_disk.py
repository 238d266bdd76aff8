"""A disk that is full, read-only, limited or gone: the study stops and says so, and goes on when that is mended."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from glue_runs.finetune import finetune
from glue_runs.flags import parse
from hf_elmix.training.resumable import check_checkpoint

pytestmark = pytest.mark.slow

PAGE = 4096

# Free pages: with few of them the study cannot be declared or has no room for its records, then for one file or the
# other of a checkpoint of some 140 KB.
FOR_RECORDS = (0, 1, 2, 3, 4)
FOR_CHECKPOINTS = (4, 6, 8, 10, 16, 24, 32)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def leave(disk: Path, pages: int) -> None:
    """Fill a disk but for so many pages."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    there = os.statvfs(disk)
    assert there.f_bsize == PAGE
    with filler.open("wb") as file:
        file.write(b"x" * PAGE * (there.f_bavail - pages))
    assert os.statvfs(disk).f_bavail == pages


def check_stopped(started, folder) -> str:
    """Check that a study has ended as it should on a full disk; returns what it said of it."""
    assert started.wait() == 1, started.said()
    started.settle()
    said = started.said()
    (line,) = started.lines()
    assert line == said.splitlines()[-1]
    assert "No space left" in line
    assert str(folder) in line
    assert "Traceback" not in said
    assert "failed" not in said
    return line


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(("kind", "free"), [("record.json", FOR_RECORDS), ("a checkpoint", FOR_CHECKPOINTS)])
def test_study_stops_on_full_disk_and_continues_when_there_is_space(
    begin_study, snapshot, records, strays, check_complete, disk, workers, kind, free
):
    folder = disk / "runs"
    words = ["--workers", workers, *(["--no_sharing"] if kind == "record.json" else [])]
    lines, kept = [], {}
    for pages in free:
        leave(disk, pages)
        started = begin_study(folder, *words)
        lines.append(check_stopped(started, folder))
        assert {record["status"] for record in records(folder).values()} <= {"done"}
        assert snapshot(folder).items() >= kept.items()
        kept = snapshot(folder)
        assert [name for name in strays(folder) if not name.startswith(".segments/toy/seed3/step")] == []
    assert len([line for line in lines if kind in line]) >= len(free) // 2
    (disk / "filler").unlink()
    last = begin_study(folder, *words)
    assert last.wait() == 0, last.said()
    assert snapshot(folder).items() >= kept.items()
    check_complete(folder)


def test_finetune_on_a_full_disk_leaves_only_whole_checkpoints(disk, encoder, tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "superb .,good\nawful .,bad\n" * 8)
    words = ["--model_name_or_path", encoder, "--train_file", str(rows), "--validation_file", str(rows), "--use_cpu"]
    words += ["--save_strategy", "epoch", "--num_train_epochs", "4", "--report_to", "none", "--disable_tqdm", "true"]
    with pytest.raises(OSError, match="No space left for a checkpoint or model") as caught:
        finetune(*parse([*words, "--output_dir", str(disk / "out")]))
    assert caught.value.errno == errno.ENOSPC
    left = sorted(path.name for path in (disk / "out").glob("checkpoint-*"))
    assert left == ["checkpoint-1"]
    check_checkpoint(disk / "out" / "checkpoint-1", {})
    shutil.move(disk / "out", tmp_path / "out")
    again = [*words, "--output_dir", str(tmp_path / "out"), "--resume_from_checkpoint", "last"]
    assert finetune(*parse(again)) == 0


def cover(disk: Path) -> None:
    """Put the same files read-only in the place of a disk; it cannot be made read-only itself while locks are open."""
    subprocess.run(["mount", "--bind", str(disk), str(disk)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)


def limit(disk: Path, started: Any) -> None:
    """Let no process of a study write a file of more than 16 KB, which is enough for records and for what it says."""
    for pid in started.alive():
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (2**14, 2**14))


# What goes wrong with the disk, and what mends it.
TROUBLES: dict[str, tuple[Callable[[Path, Any], object], Callable[[Path], object]]] = {
    "it becomes read-only": (
        lambda disk, _: cover(disk),
        lambda disk: subprocess.run(["umount", "--lazy", str(disk)], check=True),
    ),
    "it is unmounted": (
        lambda disk, _: subprocess.run(["umount", "--lazy", str(disk)], check=True),
        lambda disk: subprocess.run(["mount", "--bind", f"{disk}-behind", str(disk)], check=True),
    ),
    "no large file can be written": (limit, lambda disk: None),
}


@pytest.mark.parametrize(("trouble", "workers"), list(zip(TROUBLES, ("1", "1", "2"), strict=True)))
def test_a_disk_in_trouble_stops_the_study_until_it_is_mended(
    begin_study, snapshot, records, check_complete, disk, trouble, workers
):
    behind = Path(f"{disk}-behind")  # what is unmounted stays there
    behind.mkdir()
    subprocess.run(["mount", "--bind", str(disk), str(behind)], check=True)
    wrong, mend = TROUBLES[trouble]
    folder = disk / "runs"
    try:
        started = begin_study(folder, "--workers", workers)
        while not list(folder.glob("*/*/*/record.json")) and not started.ended():
            time.sleep(0.002)
        wrong(disk, started)
        assert started.wait() == 1, started.said()
        started.settle()
        (line,) = started.lines()
        assert line == started.said().splitlines()[-1]
        assert "Traceback" not in started.said()
        assert "failed" not in started.said()
        assert list(folder.glob("*/*/*/record.json")) == [] or trouble != "it is unmounted"
        mend(disk)
        assert {record["status"] for record in records(folder).values()} == {"done"}
        kept = snapshot(folder)
        last = begin_study(folder)
        assert last.wait() == 0, last.said()
        assert snapshot(folder).items() >= kept.items()
        check_complete(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(behind)], check=True)
