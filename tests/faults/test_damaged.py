"""Files that are damaged: what the study has written, and what it reads."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SEGMENT = ".segments/toy/seed3"  # of the first block


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 3, len(data), len(data) // 3):
        data[place] ^= 0x10
    path.write_bytes(data)


DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "truncated weights": ("model.safetensors", truncate),
    "weights with flipped bits": ("model.safetensors", flip),
    "a truncated optimizer": ("optimizer.pt", truncate),
    "an optimizer with flipped bits": ("optimizer.pt", flip),
    "losses with flipped bits": ("pending.safetensors", flip),
    "a state that is missing": ("trainer_state.json", Path.unlink),
    "a truncated manifest": ("~manifest.json", truncate),
    "a manifest with flipped bits": ("~manifest.json", flip),
    "a manifest that is missing": ("~manifest.json", Path.unlink),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_retrained(begin_study, snapshot, check_complete, runs, damage):
    killed = begin_study(runs, crash=("rename .* /toy/0/seed3/record.json$", 1))
    assert killed.wait() == -9, killed.said()
    there = sorted(path.name.split("-")[0] for path in Path(runs, SEGMENT).iterdir() if path.name[0] != ".")
    assert there == ["step19", "step4"]
    name, spoil = DAMAGES[damage]
    for path in Path(runs, SEGMENT).glob(f"step*/{name}"):
        spoil(path)
    kept = snapshot(runs)
    again = begin_study(runs)
    assert again.wait() == 0, again.said()
    assert snapshot(runs).items() >= kept.items()
    check_complete(runs)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.fixture
def complete(begin_study, reference, tmp_path_factory) -> Path:
    """A toy study that is complete."""
    folder = tmp_path_factory.getbasetemp() / "complete"
    if not folder.exists():
        assert begin_study(folder).wait() == 0
    return folder


@pytest.mark.parametrize("spoil", [truncate, flip, empty])
@pytest.mark.parametrize("name", ["toy/0,0.5/seed4/record.json", "study.json"])
def test_damaged_record_or_declaration_is_reported_and_can_be_deleted(
    begin_study, snapshot, check_complete, complete, runs, name, spoil
):
    shutil.copytree(complete, runs)
    spoil(runs / name)
    kept = {path: file for path, file in snapshot(runs).items() if not path.endswith(name)}
    started = begin_study(runs)
    assert started.wait() == 2, started.said()
    (line,) = started.said().splitlines()
    assert str(runs / name) in line
    assert "Delete it" in line
    (runs / name).unlink()
    again = begin_study(runs)
    assert again.wait() == 0, again.said()
    assert snapshot(runs).items() >= kept.items()
    check_complete(runs)


@pytest.fixture
def file_of_rows(rows: Path) -> Iterator[Path]:
    """A file that the study reads; it is as before in the end."""
    path = rows / "cola" / "train-00000-of-00001.parquet"
    good = path.read_bytes()
    yield path
    path.write_bytes(good)


def test_unreadable_rows_stop_the_study_before_any_training(
    begin_study, snapshot, results, undisturbed, words, rows, file_of_rows, runs
):
    assert begin_study(runs, *words, "--seeds", "0").wait() == 0
    kept, good = snapshot(runs), file_of_rows.read_bytes()
    for spoil in (truncate, empty):
        spoil(file_of_rows)
        started = begin_study(runs, *words)
        assert started.wait() == 2, started.said()
        (line,) = started.lines()
        assert "Traceback" not in started.said()
        assert "cola" in line
        assert str(rows) in line
        assert snapshot(runs) == kept
    file_of_rows.write_bytes(good)
    again = begin_study(runs, *words)
    assert again.wait() == 0, again.said()
    assert snapshot(runs).items() >= kept.items()
    assert results(runs) == undisturbed
