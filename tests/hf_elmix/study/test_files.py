from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from upath import UPath

from hf_elmix.study.files import below, component, local_path, put_folder, remove, write_json


@pytest.fixture(params=["local", "memory"])
def anywhere(request, tmp_path: Path) -> Iterator[UPath]:
    """A local folder, and one at a URL."""
    folder = UPath(tmp_path / "runs") if request.param == "local" else UPath(f"memory://{uuid.uuid4().hex}/runs")
    yield folder
    if request.param == "memory":
        folder.fs.store.clear()


@pytest.fixture
def folder(tmp_path: Path) -> UPath:
    return UPath(tmp_path / "runs")


class Crash(Exception):
    pass


def crash(*_: object) -> None:
    raise Crash


@pytest.mark.parametrize("name", ["/x", "../x", "a/../../x", "..", ".", "", "/", "a//b", "a/", "./a", "a\0b", "//h/x"])
def test_a_name_that_leads_elsewhere_is_refused(anywhere, name):
    with pytest.raises(ValueError, match="is not a name inside the folder"):
        below(anywhere, name)


@pytest.mark.parametrize("name", ["x", "a/b", "..x", "a/b..", "0,0.5", "x [lr=1]", "~manifest.json", "ü"])
def test_a_name_inside_is_a_path_below(anywhere, name):
    assert below(anywhere, name) == anywhere / name


def test_a_folder_is_put_in_its_place_whole_and_replaces_what_was_there(anywhere, tmp_path):
    for text in ("old", "new"):
        source = tmp_path / text
        (source / "sub").mkdir(parents=True)
        (source / "sub" / text).write_text(text)
        (source / "same").write_text(text)
        put_folder(source, anywhere / "place")
    place = anywhere / "place"
    assert (place / "same").read_text() == "new"
    assert sorted(path.name for path in place.rglob("*")) == ["new", "same", "sub"]
    assert [path.name for path in anywhere.iterdir()] == ["place"]


def test_files_that_only_their_owner_could_read_get_the_modes_of_their_neighbours(folder, tmp_path):
    (tmp_path / "source").mkdir()
    for name, mode in (("weights", 0o600), ("config", 0o644)):
        (tmp_path / "source" / name).write_text("")
        (tmp_path / "source" / name).chmod(mode)
    folder.mkdir(0o755)
    folder.chmod(0o750)
    put_folder(tmp_path / "source", folder / "place")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder / "place").iterdir()}
    assert modes == {"weights": 0o640, "config": 0o644}


def test_a_folder_that_cannot_be_moved_leaves_nothing(folder, tmp_path, monkeypatch):
    (tmp_path / "source").mkdir()
    monkeypatch.setattr(os, "rename", crash)
    monkeypatch.setattr("shutil.move", lambda one, other: os.makedirs(other))
    with pytest.raises(Crash):
        put_folder(tmp_path / "source", folder / "place")
    assert list(folder.iterdir()) == []


def test_removing_what_does_not_exist_is_not_an_error(anywhere):
    remove(anywhere / "nothing")
    (anywhere / "some" / "where").mkdir(parents=True)
    (anywhere / "some" / "where" / "file").write_text("")
    remove(anywhere / "some")
    assert not (anywhere / "some").exists()


def test_what_a_killed_process_left_of_a_file_is_replaced(folder):
    folder.mkdir()
    write_json(folder / "x.json", {"a": 1})
    (folder / ".x.json.0123456789abcdef.new").write_text("{")
    write_json(folder / "x.json", {"a": 2})
    assert [path.name for path in folder.iterdir()] == ["x.json"]
    assert json.loads((folder / "x.json").read_text()) == {"a": 2}


def test_a_local_path_is_one_of_this_machine(tmp_path):
    assert local_path(UPath(tmp_path)) == tmp_path
    assert local_path(UPath("memory://runs")) is None


@pytest.mark.parametrize("name", ["a [b=1]", "[ab]"])
def test_a_folder_whose_name_is_a_pattern_is_removed_and_no_other(anywhere, name):
    for place in (anywhere / name, anywhere / "a b=1", anywhere / "a"):
        write_json_in(place)
    remove(anywhere / name)
    assert not (anywhere / name / "x.json").exists()
    assert (anywhere / "a b=1" / "x.json").exists()
    assert (anywhere / "a" / "x.json").exists()


def write_json_in(folder: UPath) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "x.json", {})


def test_a_long_name_becomes_one_that_a_file_system_can_hold():
    names = [" ".join(f"{k / 200}@{k / 60}" for k in range(count)) for count in (59, 60)]
    parts = list(map(component, names))
    assert len(set(parts)) == 2
    assert max(len(part.encode()) for part in parts) <= 200
