from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from hf_elmix.analysis import exchange
from hf_elmix.analysis.exchange import LISTING, replaced
from hf_elmix.errors import UsageError


def write(folder: Path, **files: str) -> None:
    """Write a folder whose page is ``page`` and whose other files are in ``data/``."""
    with replaced(folder, "page") as new:
        (new / "page").write_text(files.get("page", "page"))
        (new / "data").mkdir()
        for name, text in files.items():
            (new / "data" / name).write_text(text)


def files(folder: Path) -> dict[str, str]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_text() for name, path in found.items() if name != LISTING}


@pytest.fixture(params=["in one step", "in two"])
def folder(request, tmp_path, monkeypatch) -> Path:
    """Where a report goes; systems other than Linux cannot exchange two folders."""
    if request.param == "in two":
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    return tmp_path / "some" / "report"


def test_a_folder_is_made_and_replaced(folder):
    write(folder, old="1")
    write(folder, new="2")
    assert files(folder) == {"page": "page", "data/new": "2"}
    assert os.listdir(folder.parent) == ["report"]


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_in_the_place_of_a_folder_is_named(folder, kind, tmp_path):
    write(folder, old="1")
    (folder / "data").rename(tmp_path / "elsewhere")
    (folder / "data").symlink_to(tmp_path / "elsewhere") if kind == "link" else (folder / "data").touch()
    with pytest.raises(UsageError, match=f"Expected a folder, but '.*report/data' is a {kind}. Remove it."):
        write(folder, new="2")
    assert (tmp_path / "elsewhere" / "old").read_text() == "1"
    assert os.listdir(folder.parent) == ["report"]


@pytest.mark.parametrize("end", [KeyboardInterrupt, OSError(28, "No space left on device"), ValueError])
def test_what_is_interrupted_leaves_the_earlier_one(folder, end):
    write(folder, old="1")

    def stop() -> None:
        with replaced(folder, "page") as new:
            (new / "page").write_text("half")
            raise end

    with pytest.raises(end if isinstance(end, type) else type(end)):
        stop()
    assert files(folder) == {"page": "page", "data/old": "1"}
    assert os.listdir(folder.parent) == ["report"]


def test_what_cannot_be_exchanged_leaves_the_earlier_one(folder, monkeypatch):
    write(folder, old="1")
    rename = os.rename

    def refuse(source, target):
        if Path(target) == folder:
            raise OSError(16, "Device or resource busy")
        rename(source, target)

    def put_back(source, target):
        monkeypatch.setattr(os, "rename", rename)
        refuse(source, target)

    monkeypatch.setattr(exchange.ctypes, "CDLL", lambda *_, **__: object())
    monkeypatch.setattr(
        os, "rename", lambda source, target: (put_back if Path(target) == folder else rename)(source, target)
    )
    with pytest.raises(OSError, match="busy"):
        write(folder, new="2")
    assert files(folder) == {"page": "page", "data/old": "1"}
    assert os.listdir(folder.parent) == ["report"]


def test_files_of_others_stay_and_links_are_not_followed(folder, tmp_path):
    write(folder, old="1")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "thesis").write_text("years")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "data" / "mine").write_text("notes")
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "too").write_text("more")
    for _ in range(2):
        write(folder, new="2")
        expected = {"page": "page", "data/new": "2", "data/mine": "notes", "deep/er/too": "more"}
        assert {name: text for name, text in files(folder).items() if not name.startswith("link")} == expected
        assert (folder / "link").readlink() == tmp_path / "elsewhere"
    assert files(tmp_path / "elsewhere") == {"thesis": "years"}


def test_a_file_of_another_is_not_replaced(folder):
    write(folder, old="1")
    (folder / "data" / "new").write_text("mine")
    with pytest.raises(UsageError, match=r"no file of your own at .*data/new'\. Move or rename it"):
        write(folder, new="2")
    assert files(folder) == {"page": "page", "data/old": "1", "data/new": "mine"}


def test_a_folder_from_before_there_were_listings_is_replaced(folder):
    write(folder, same="1", gone="1")
    (folder / LISTING).unlink()
    write(folder, same="2")
    assert files(folder) == {"page": "page", "data/same": "2", "data/gone": "1"}  # which may be anyone's


def test_a_link_to_a_folder_stays_one(folder, tmp_path):
    write(folder, old="1")
    (tmp_path / "link").symlink_to(folder)
    write(tmp_path / "link", new="2")
    assert (tmp_path / "link").is_symlink()
    assert files(folder) == {"page": "page", "data/new": "2"}


def test_other_folders_are_refused(tmp_path, monkeypatch):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UsageError, match="new, empty or holds an earlier page, but .* Type --output_dir .*report"):
        write(tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        write(tmp_path / "notes")
    assert files(tmp_path) == {"notes": "mine"}
    write(tmp_path / "report")
    monkeypatch.chdir(tmp_path / "report")
    with pytest.raises(UsageError, match="other than the current one"):
        write(Path())
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", new="2")
    assert files(tmp_path / "empty") == {"page": "page", "data/new": "2"}
