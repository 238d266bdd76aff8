from __future__ import annotations

import itertools
import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Trainer, TrainingArguments
from upath import UPath

from hf_elmix.study.checkpoints import MANIFEST, Checkpoints, checkpoint_name
from hf_elmix.study.files import StorageError

NOTES = {"costs": [{"method": "0", "steps": 3, "seconds": 0.5}]}
CONTENT = {"a.bin": b"weights", "b/c.json": b"{}", "empty": b"", "z": bytes(5000)}


@pytest.fixture(params=["local", "memory"])
def checkpoints(request, tmp_path: Path) -> Iterator[Checkpoints]:
    if request.param == "local":
        yield Checkpoints(UPath(tmp_path / "kept" / "seed3"))
        return
    folder = UPath(f"memory://{uuid.uuid4().hex}/seed3")
    yield Checkpoints(folder)
    folder.fs.store.clear()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return folder_with(tmp_path / "source", CONTENT)


def folder_with(folder: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def content_of(folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in files.items() if name != MANIFEST}


def test_what_was_saved_is_found(checkpoints, source, tmp_path):
    assert not checkpoints.has("x")
    assert checkpoints.find("x", tmp_path / "scratch") is None
    checkpoints.save("x", source, NOTES)
    assert checkpoints.has("x")
    folder, notes = checkpoints.find("x", tmp_path / "scratch")
    assert isinstance(folder, Path)
    assert content_of(folder) == CONTENT
    assert notes == NOTES
    assert not checkpoints.has("y")


def test_it_is_found_as_often_as_it_is_asked_for(checkpoints, source, tmp_path):
    checkpoints.save("x", source, NOTES)
    for scratch in ("one", "other"):
        folder, notes = checkpoints.find("x", tmp_path / scratch)
        assert (content_of(folder), notes) == (CONTENT, NOTES)


def test_one_that_is_deleted_is_gone_and_the_others_stay(checkpoints, source, tmp_path):
    other = shutil.copytree(source, tmp_path / "other")
    checkpoints.save("x", source, NOTES)
    checkpoints.save("y", other, {})
    checkpoints.delete("x")
    checkpoints.delete("never there")
    assert [checkpoints.has(name) for name in "xy"] == [False, True]
    checkpoints.clear()
    assert not checkpoints.has("y")
    assert not checkpoints.folder.exists() or list(checkpoints.folder.iterdir()) == []
    checkpoints.clear()


def truncated(data: bytes) -> bytes:
    return data[:-1]


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def missing(data: bytes) -> None:
    return None


@pytest.mark.parametrize("damage", [truncated, flipped, missing])
@pytest.mark.parametrize("name", ["a.bin", "b/c.json", "z", MANIFEST])
def test_a_damaged_checkpoint_is_not_found_and_removed(checkpoints, source, tmp_path, damage, name):
    checkpoints.save("x", source, NOTES)
    path = checkpoints.folder / "x" / name
    data = damage(path.read_bytes())
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    assert checkpoints.find("x", tmp_path / "scratch") is None
    assert not checkpoints.has("x")


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"files": {}}', '{"files": [], "notes": {}}', "\x00"])
def test_without_a_valid_manifest_there_is_no_checkpoint(checkpoints, source, tmp_path, text):
    checkpoints.save("x", source, NOTES)
    (checkpoints.folder / "x" / MANIFEST).write_text(text)
    assert checkpoints.find("x", tmp_path / "scratch") is None
    assert not checkpoints.has("x")


@pytest.mark.parametrize("name", ["{outside}/x", "../../x", "a/../../../x", "../other/a.bin"])
def test_a_manifest_that_names_a_file_elsewhere_is_damaged(checkpoints, source, tmp_path, name):
    name = name.format(outside=tmp_path / "outside")
    checkpoints.save("x", source, NOTES)
    place = checkpoints.folder / "x"
    for there in (name, name.lstrip("/")):  # a store may hold such names
        with suppress(OSError, ValueError):
            other = place.joinpath(*there.split("/"))
            other.parent.mkdir(parents=True, exist_ok=True)
            other.write_bytes(CONTENT["a.bin"])
    if not name.startswith("/") or fsspec.__version__ >= "2026.9":  # older memory cannot delete it again
        place.fs.pipe_file(f"{place.path}/{name}", CONTENT["a.bin"])
    said = json.loads((place / MANIFEST).read_text())
    (place / MANIFEST).write_text(json.dumps({**said, "files": {name: said["files"]["a.bin"]}}))
    scratch = tmp_path / "deep" / "er" / "scratch"
    scratch.mkdir(parents=True)
    before = set(tmp_path.rglob("*"))
    assert checkpoints.find("x", scratch) is None
    assert all(path.is_relative_to(scratch) for path in set(tmp_path.rglob("*")) - before)


def test_what_is_checked_is_a_copy(checkpoints, source, tmp_path):
    checkpoints.save("x", source, NOTES)
    (checkpoints.folder / "x" / "not in the manifest").write_text("")
    folder, _ = checkpoints.find("x", tmp_path / "scratch")
    (checkpoints.folder / "x" / "a.bin").write_bytes(b"changed")
    checkpoints.delete("x")
    assert content_of(folder) == CONTENT


def test_a_checkpoint_that_cannot_be_copied_to_a_full_disk_stays(source, tmp_path, monkeypatch):
    checkpoints = Checkpoints(UPath(tmp_path / "kept"))
    checkpoints.save("x", source, NOTES)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(checkpoints.folder.fs), "get", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.find("x", tmp_path / "scratch")
    assert checkpoints.has("x")


def test_a_folder_without_a_manifest_is_no_checkpoint(checkpoints, source, tmp_path):
    checkpoints.save("x", source, NOTES)
    (checkpoints.folder / "x" / MANIFEST).unlink()
    assert not checkpoints.has("x")
    assert checkpoints.find("x", tmp_path / "scratch") is None


def test_one_of_the_same_name_takes_the_place_of_a_damaged_one(checkpoints, source, tmp_path):
    again = shutil.copytree(source, tmp_path / "again")
    checkpoints.save("x", source, NOTES)
    (checkpoints.folder / "x" / "a.bin").unlink()
    checkpoints.save("x", again, NOTES)
    folder, _ = checkpoints.find("x", tmp_path / "scratch")
    assert content_of(folder) == CONTENT


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_no_folder_makes_way_and_what_a_link_points_to_stays(source, tmp_path, kind):
    checkpoints, place = Checkpoints(UPath(tmp_path / "kept")), tmp_path / "kept" / "x"
    place.parent.mkdir()
    elsewhere = folder_with(tmp_path / "elsewhere", {"a.bin": b"mine", MANIFEST: b"no manifest"})
    place.symlink_to(elsewhere) if kind == "link" else place.write_text("a file")
    assert checkpoints.find("x", tmp_path / "scratch") is None
    checkpoints.save("x", source, NOTES)
    assert content_of(checkpoints.find("x", tmp_path / "scratch")[0]) == CONTENT
    assert content_of(elsewhere) == {"a.bin": b"mine"}


@pytest.mark.parametrize("name", ["x", "x/b", "x/b/c.json"])
def test_a_checkpoint_that_leads_through_a_link_is_damaged(source, tmp_path, name):
    """The bytes are those that were saved; whoever made the link could exchange them at any time."""
    checkpoints = Checkpoints(UPath(tmp_path / "kept"))
    checkpoints.save("x", source, NOTES)
    place, elsewhere = tmp_path / "kept" / name, tmp_path / "elsewhere"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    assert checkpoints.find("x", tmp_path / "scratch") is None
    assert not checkpoints.has("x")
    assert elsewhere.exists()


def test_a_file_in_the_place_of_the_checkpoints_is_no_result_of_a_run(tmp_path):
    (tmp_path / "kept").touch()
    with pytest.raises(StorageError, match="kept"), Checkpoints(UPath(tmp_path / "kept" / "seed3")).scratch():
        pass


def test_a_study_may_be_reached_through_a_link(source, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "kept").symlink_to(tmp_path / "real")
    checkpoints = Checkpoints(UPath(tmp_path / "kept"))
    checkpoints.save("x", source, NOTES)
    assert content_of(checkpoints.find("x", tmp_path / "scratch")[0]) == CONTENT


def test_the_manifest_sorts_after_every_file_of_a_trainer(toy, tmp_path):
    args = TrainingArguments(str(tmp_path), max_steps=1, save_steps=1, report_to="none", use_cpu=True)
    given = {name: toy.inputs(0).trainer[name] for name in ("model", "train_dataset")}
    Trainer(args=args, **given, compute_loss_func=lambda outputs, labels, **_: outputs.logits.sum()).train()
    names = sorted([*(path.name for path in (tmp_path / "checkpoint-1").iterdir()), MANIFEST, "pending.safetensors"])
    assert names[-1] == MANIFEST
    assert len(names) > 6


def test_a_remote_checkpoint_is_not_seen_before_it_is_whole(source, tmp_path, monkeypatch):
    checkpoints = Checkpoints(UPath(f"memory://{uuid.uuid4().hex}/seed3"))
    seen = []
    put = type(checkpoints.folder.fs).put_file

    def spy(fs, path, *given, **more):
        seen.append((Path(path).name, checkpoints.has("x")))
        return put(fs, path, *given, **more)

    monkeypatch.setattr(type(checkpoints.folder.fs), "put_file", spy)
    checkpoints.save("x", source, NOTES)
    assert [name for name, _ in seen] == ["a.bin", "c.json", "empty", "z", MANIFEST]
    assert not any(there for _, there in seen)


def test_a_local_checkpoint_is_whole_when_it_is_there(source, tmp_path, monkeypatch):
    checkpoints = Checkpoints(UPath(tmp_path / "kept"))
    monkeypatch.setattr("os.rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr("shutil.move", lambda one, other: shutil.copytree(one, other))
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save("x", source, NOTES)
    assert not checkpoints.has("x")
    assert list((tmp_path / "kept").iterdir()) == []


def test_where_another_worker_was_faster_its_checkpoint_stays(source, tmp_path, monkeypatch):
    checkpoints = Checkpoints(UPath(tmp_path / "kept"))
    theirs = folder_with(tmp_path / "theirs", {**CONTENT, MANIFEST: b"{}"})

    def overtaken(near, here):
        shutil.copytree(theirs, here)
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr("os.rename", overtaken)
    monkeypatch.setattr("shutil.move", lambda one, other: shutil.copytree(one, other))
    checkpoints.save("x", source, NOTES)
    assert json.loads((tmp_path / "kept/x" / MANIFEST).read_text()) == {}


def test_an_error_of_the_disk_is_not_kept_quiet(source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.move", full)
    with pytest.raises(OSError, match="No space left"):
        Checkpoints(UPath(tmp_path / "kept")).save("x", source, NOTES)


def test_scratch_is_near_the_checkpoints_and_goes(checkpoints):
    with checkpoints.scratch() as scratch:
        (scratch / "file").write_text("")
        with checkpoints.scratch() as other:
            assert other != scratch
        assert scratch.is_dir()
    assert not scratch.exists()
    assert not other.exists()
    local = checkpoints.folder.protocol == ""
    assert (str(scratch).startswith(str(checkpoints.folder))) == local


def test_scratch_goes_when_an_error_does(checkpoints):
    with pytest.raises(RuntimeError), checkpoints.scratch() as scratch:  # noqa: PT012
        (scratch / "file").write_text("")
        raise RuntimeError
    assert not scratch.exists()


JSON = st.recursive(st.integers() | st.text(max_size=3), lambda one: st.dictionaries(st.text(max_size=2), one))
IDENTITIES = st.dictionaries(st.text(max_size=3), JSON, max_size=3)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 9), IDENTITIES, st.integers(0, 9), IDENTITIES)
def test_names_are_equal_if_and_only_if_all_that_determines_them_is(stop, identity, other_stop, other):
    assert (checkpoint_name(stop, identity) == checkpoint_name(other_stop, other)) == (
        (stop, identity) == (other_stop, other)
    )
    assert checkpoint_name(stop, identity) == checkpoint_name(stop, dict(reversed(identity.items())))


def test_a_name_is_one_path_component_that_says_the_step():
    names = [checkpoint_name(stop, {"lr": lr}) for stop, lr in itertools.product((1, 19), (0.1, 0.2))]
    assert len(set(names)) == 4
    assert [name.split("-")[0] for name in names] == ["step1", "step1", "step19", "step19"]
    assert all("/" not in name and len(name) < 60 for name in names)
