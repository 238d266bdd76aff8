"""Put a folder of files in the place of an earlier one: whole, or not at all."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_elmix.errors import UsageError

__all__ = ["LISTING", "replaced"]

LISTING = ".files"  # names the files of a folder that were made here, one in a line; others are left alone
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux: linux/fcntl.h, linux/fs.h


@contextmanager
def replaced(folder: Path, mark: str) -> Iterator[Path]:
    """Yield a new folder, which takes the place of another once it is complete.

    The two are exchanged in a single step on Linux. Elsewhere the earlier one is renamed first: if the process is
    killed right then, it is beside its place, under a name that begins with a dot. Files in it that were not made
    here stay.

    Args:
        folder: The folder to replace; made if it does not exist.
        mark: Name of a file that an earlier one holds, which tells it from other folders.

    Raises:
        UsageError: If the folder is no earlier one and holds files, or is the current folder.
        OSError: If something cannot be written or exchanged; the earlier folder is then as it was.
    """
    target = folder.resolve()
    _check(target, mark)
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    new.mkdir()
    try:
        yield new
        made = _files(new)
        (new / LISTING).write_text("\n".join([*sorted(made), LISTING, ""]), encoding="utf-8")
        if not target.is_dir():
            os.rename(new, target)
            return
        ours = _ours(target, made)
        _check_folders(target, made)
        _keep(target, new, ours)
        shutil.copymode(target, new)
        _exchange(new, target)
        _keep(new, target, ours)  # what somebody added in the meantime
    finally:
        shutil.rmtree(new, ignore_errors=True)  # the earlier folder now, or what was begun


def _check(target: Path, mark: str) -> None:
    """Refuse a folder that is not for this alone."""
    if target.exists() and not target.is_dir():
        raise UsageError(f"Expected a folder, but {str(target)!r} is a file.")
    if target.is_dir() and any(target.iterdir()) and not (target / mark).is_file():
        raise UsageError(
            f"Expected a folder that is new, empty or holds an earlier {mark}, but {str(target)!r} holds other files. "
            f"Type --output_dir {target / 'report'}"
        )
    if Path.cwd().is_relative_to(target):
        raise UsageError(f"Expected a folder other than the current one, {str(target)!r}, to replace. Leave it first.")


def _files(folder: Path) -> set[str]:
    """Everything in a folder but its folders; links are not followed."""
    found = (Path(place, name) for place, folders, files in os.walk(folder) for name in [*folders, *files])
    return {path.relative_to(folder).as_posix() for path in found if path.is_symlink() or not path.is_dir()}


def _ours(target: Path, made: set[str]) -> set[str]:
    """The files of an earlier folder that were made here: those it lists, or those that are made again."""
    listing = target / LISTING
    if not listing.is_file():  # older than listings
        return made
    ours = set(listing.read_text(encoding="utf-8", errors="replace").splitlines())
    for name in sorted(made - ours):
        if os.path.lexists(target / name):
            raise UsageError(f"Expected no file of your own at {str(target / name)!r}. Move or rename it.")
    return ours


def _check_folders(target: Path, made: set[str]) -> None:
    """Refuse a link or a file in the place of a folder of ours."""
    for folder in sorted({folder for name in made for folder in Path(name).parents} - {Path()}):
        if (place := target / folder).is_symlink() or (place.exists() and not place.is_dir()):
            kind = "link" if place.is_symlink() else "file"
            raise UsageError(f"Expected a folder, but {str(place)!r} is a {kind}. Remove it.")


def _keep(source: Path, target: Path, ours: set[str]) -> None:
    """Link each file of a folder into another, unless it is ours or is there already."""
    for name in _files(source) - ours - _files(target):
        path, copy = source / name, target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, copy, follow_symlinks=False)
        except OSError:  # not every file system has links
            shutil.copy2(path, copy, follow_symlinks=False)


def _exchange(new: Path, target: Path) -> None:
    """Exchange two folders."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
        if rename(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(target), RENAME_EXCHANGE) == 0:
            return
    except (AttributeError, TypeError):  # not Linux
        pass
    aside = new.with_name(f"{new.name}.earlier")
    os.rename(target, aside)
    try:
        os.rename(new, target)
    except BaseException:
        os.rename(aside, target)
        raise
    os.rename(aside, new)
