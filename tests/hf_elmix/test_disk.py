from __future__ import annotations

import os
import re
import socket
import stat
from pathlib import Path

import pytest

from hf_elmix.disk import read_regular, write_whole


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # the path of a socket must be short
        server.bind(path.name)
        os.chdir(here)


def make_link(path: Path) -> None:
    (path.parent / "target").write_text("{}")
    path.symlink_to("target")


def make_device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero, which has no end
    except PermissionError:
        pytest.skip("needs the right to make devices")


NOT_FILES = {
    "a pipe": (os.mkfifo, "it is not a regular file"),
    "a socket": (make_socket, "it is not a regular file"),
    "a folder": (Path.mkdir, "it is not a regular file"),
    "a device": (make_device, "it is not a regular file"),
    "a link": (make_link, "it is a link"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "it is a link"),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), "it is a link"),
}


@pytest.mark.parametrize("kind", NOT_FILES)
def test_only_regular_files_are_opened(tmp_path, kind):
    make, words = NOT_FILES[kind]
    make(tmp_path / "x")
    with pytest.raises(ValueError, match=words):
        read_regular(tmp_path / "x")


def test_a_file_that_becomes_a_pipe_before_it_is_opened_is_not_waited_for(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("{}")
    os.mkfifo(tmp_path / "pipe")
    regular = os.lstat(tmp_path / "x")
    monkeypatch.setattr(os, "lstat", lambda path: regular)
    with pytest.raises(ValueError, match="it is not a regular file"):
        read_regular(tmp_path / "pipe")


def test_files_up_to_a_size_are_read(tmp_path):
    (tmp_path / "x").write_bytes(b"0123456789")
    assert read_regular(tmp_path / "x", 10) == b"0123456789"
    with pytest.raises(ValueError, match="it has more than 9 bytes"):
        read_regular(tmp_path / "x", 9)
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2**42)  # bytes; nothing of it is on disk
    with pytest.raises(ValueError, match="it has more than 67,108,864 bytes"):
        read_regular(tmp_path / "large")


def test_what_does_not_exist_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "x")


def test_no_temporary_name_can_be_guessed_or_taken(tmp_path, monkeypatch):
    names: list[str] = []
    replace = os.replace

    def note(source: Path, target: Path) -> None:
        names.append(Path(source).name)
        assert stat.S_ISREG(os.lstat(source).st_mode)
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    for text in (b"one", b"two"):
        write_whole(tmp_path / "x", text)
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"\.x\.[0-9a-f]{16}\.new", name) for name in names)
    assert (tmp_path / "x").read_bytes() == b"two"


def test_a_temporary_name_that_is_a_link_is_refused_and_its_target_untouched(tmp_path, monkeypatch):
    (tmp_path / "victim").write_text("mine")
    monkeypatch.setattr("secrets.token_hex", lambda count: "00")
    monkeypatch.setattr(Path, "glob", lambda path, pattern: iter(()))  # it appears after those of before were removed
    (tmp_path / ".x.00.new").symlink_to("victim")
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "x", b"theirs")
    assert (tmp_path / "victim").read_text() == "mine"


def test_links_that_others_left_are_not_followed(tmp_path):
    (tmp_path / "victim").write_text("mine")
    for name in (".x.new", ".x.0123456789abcdef.new", "x"):
        (tmp_path / name).symlink_to("victim")
    write_whole(tmp_path / "x", b"theirs")
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "x").is_symlink()
    assert (tmp_path / "x").read_bytes() == b"theirs"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_file_has_the_mode_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "x", b"")
        (tmp_path / "y").write_bytes(b"")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "y").stat().st_mode
