"""Putting files on the Hugging Face Hub: only what changed, over nothing of somebody else's, and never a token."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, metadata_load
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from hf_elmix.errors import UsageError
from hf_elmix.hub.client import OTHERS, SAFETENSORS, TEXTS, access_token, explained, with_retries
from hf_elmix.hub.model_card import CARD, MARK, PICTURE

__all__ = [
    "Content",
    "Published",
    "claim_repo",
    "files_of_model",
    "own_namespace",
    "publish_files",
    "publish_folder",
]

Content = Path | bytes

WAITS = (1.0, 2.0, 4.0)  # seconds between tries; the client tries most requests several times by itself
MADE = {".gitattributes"}  # what the Hub puts into a new repository


@dataclass(frozen=True)
class Published:
    """What a push did.

    Attributes:
        url: The repository.
        changed: Files that were uploaded or deleted; none where the Hub had them all.
        total: Number of files that were to be there.
    """

    url: str
    changed: tuple[str, ...]
    total: int

    def __str__(self) -> str:
        if not self.changed:
            return f"{self.url}: nothing changed"
        return f"{self.url}: {len(self.changed)} of {self.total} files changed ({', '.join(self.changed)})"


def claim_repo(
    repo_id: str,
    mark: Mapping[str, str],
    *,
    repo_type: str = "model",
    private: bool | None = None,
    overwrite: bool = False,
    create: bool = True,
    token: str | None = None,
) -> str:
    """Make sure that a repository can be pushed to, before there is anything to push.

    Args:
        repo_id: Its id; without a namespace it is the user's.
        mark: What it is to hold (see `hf_elmix.hub.model_card.model_mark`).
        repo_type: ``model`` or ``dataset``.
        private: Whether it is to be private; None for what its namespace has as default.
        overwrite: Take also one that holds something else.
        create: Make it if there is none.
        token: Access token; left out, that of the standard login (``HF_TOKEN`` or ``hf auth login``).

    Returns:
        The full id.

    Raises:
        UsageError: If the id is malformed, the token is missing, unknown or gives no right to write
            there, the repository holds something else or is public where it should be private, or the Hub cannot be
            reached.
    """
    token = access_token(token)
    repo = _Repo(token, repo_id, repo_type, dict(mark), private, overwrite)
    with explained(repo_id, token):
        repo.check_name()
        with_retries(partial(repo.state, create=create), WAITS)
    return repo.id


def publish_files(
    files: Mapping[str, Content],
    repo_id: str,
    mark: Mapping[str, str],
    *,
    repo_type: str = "model",
    private: bool | None = None,
    overwrite: bool = False,
    token: str | None = None,
) -> Published:
    """Put files into a repository in one commit, so that nobody ever loads half of them.

    What the Hub has already is not uploaded, and where it has all there is no commit. Other files of the repository
    stay, unless it held something else and is overwritten.

    Args:
        files: Contents, or where they lie, by name in the repository.
        repo_id: See `claim_repo`, as for the others.
        mark: What the repository is to hold.
        repo_type: ``model`` or ``dataset``.
        private: Whether it is to be private.
        overwrite: Replace everything in a repository that holds something else.
        token: Access token.

    Raises:
        UsageError: If a file holds the token, or for one of the reasons of `claim_repo`.
    """
    token = access_token(token)
    _check_secret(files, token.encode())
    repo = _Repo(token, repo_id, repo_type, dict(mark), private, overwrite)
    with explained(repo_id, token):
        repo.check_name()
        with_retries(partial(repo.push, files), WAITS)
    below = "" if repo_type == "model" else f"{repo_type}s/"
    return Published(f"{constants.ENDPOINT}/{below}{repo.id}", tuple(sorted(repo.changed)), len(files))


def publish_folder(folder: str | Path, repo_id: str, mark: Mapping[str, str], **options: Any) -> Published:
    """Publish the model in a folder with its card, and nothing else that lies there.

    Args:
        folder: Where model, tokenizer and card are.
        repo_id: See `claim_repo`.
        mark: What the repository is to hold.
        options: See `publish_files`.

    Raises:
        UsageError: If there is no model in safetensors, or for one of the reasons of `publish_files`.
    """
    card = {name: Path(folder, name) for name in (CARD, PICTURE) if Path(folder, name).is_file()}
    return publish_files({**files_of_model(Path(folder)), **card}, repo_id, mark, **options)


def own_namespace(token: str | None = None) -> str:
    """Where the user's own repositories are.

    Raises:
        UsageError: If nobody is logged in, or the Hub cannot be reached.
    """
    token = access_token(token)
    with explained("your repositories", token):
        return with_retries(HfApi(token=token).whoami, WAITS)["name"]


def files_of_model(folder: Any) -> dict[str, Content]:
    """The files that a model and its tokenizer are read from: no pickle, no checkpoint, no log.

    Args:
        folder: A `Path`, or a `UPath` at a URL, of which the contents are read.

    Raises:
        UsageError: If there is no model in safetensors.
    """
    patterns = TEXTS + OTHERS + SAFETENSORS
    found = sorted(path.name for path in folder.iterdir() if path.is_file())
    names = [name for name in found if any(fnmatch(name, pattern) for pattern in patterns)]
    if not any(name.endswith(".safetensors") for name in names):
        raise UsageError(f"Expected a model in {str(folder)!r}, but it holds no .safetensors file.")
    return {name: folder / name if isinstance(folder, Path) else (folder / name).read_bytes() for name in names}


@dataclass
class _Repo:
    """A repository on the Hub, whether it is there already or not."""

    token: str
    id: str
    kind: str
    mark: dict[str, str]
    private: bool | None
    overwrite: bool
    changed: set[str] = field(default_factory=set)  # over all tries: one may succeed and only its answer be lost

    @property
    def api(self) -> HfApi:
        """The client."""
        return HfApi(token=self.token)

    def check_name(self) -> None:
        """Refuse an id that cannot be one, and complete one without a namespace."""
        validate_repo_id(self.id)
        if "/" not in self.id:
            self.id = f"{own_namespace(self.token)}/{self.id}"

    def push(self, files: Mapping[str, Content]) -> None:
        """Commit what differs."""
        info, other = self.state(create=True)
        there = {file.rfilename: file for file in info.siblings}
        changed = {name for name, content in files.items() if not _equal(content, there.get(name))}
        stale = there.keys() - files.keys() - MADE if other else set()
        additions = [CommitOperationAdd(name, files[name]) for name in sorted(changed)]
        operations = [*additions, *(CommitOperationDelete(name) for name in sorted(stale))]
        self.changed |= changed | stale
        if operations:
            self._commit(operations, info.sha)

    def _commit(self, operations: list[Any], parent: str) -> None:
        message = f"Upload {', '.join(self.mark.values())} with hf_elmix"
        options: dict[str, Any] = {"repo_type": self.kind, "parent_commit": parent}
        try:
            self.api.create_commit(self.id, operations, commit_message=message, **options)
        except JSONDecodeError as error:  # the client reads an answer before it looks whether it is one
            raise ConnectionError("The answer was no JSON") from error

    def state(self, *, create: bool) -> tuple[Any, bool]:
        """What the Hub has of it (None if it has none and none is to be made), and whether it is something else."""
        info = self._find()
        if info is None:
            if create:
                self.api.create_repo(self.id, repo_type=self.kind, private=self.private)
                info = self._find()
            return info, False
        self.api.auth_check(self.id, repo_type=self.kind, write=True)
        if self.private and not info.private:
            raise UsageError(f"{self.id} is there already and public. Make it private in its settings first.")
        held = {file.rfilename for file in info.siblings} - MADE
        other = bool(held) and self._mark_of(info, held) != self.mark
        if other and not self.overwrite:
            raise UsageError(
                f"{self.id} is there already and holds something else ({_words(self._mark_of(info, held))}, not "
                f"{_words(self.mark)}). Choose another name, or --overwrite to replace all its files."
            )
        return info, other

    def _find(self) -> Any:
        try:
            return self.api.repo_info(self.id, repo_type=self.kind, files_metadata=True)
        except RepositoryNotFoundError:
            return None

    def _mark_of(self, info: Any, held: set[str]) -> Any:
        """What its card says that it holds; None if it says nothing that hf_elmix would."""
        if CARD not in held:
            return None
        path = self.api.hf_hub_download(self.id, CARD, repo_type=self.kind, revision=info.sha)
        try:
            return (metadata_load(path) or {}).get(MARK)
        except (ValueError, yaml.YAMLError):
            return None


def _words(mark: Any) -> str:
    if not isinstance(mark, Mapping):
        return "not made by hf_elmix"
    return ", ".join(map(repr, mark.values()))


def _equal(content: Content, there: Any) -> bool:
    """Whether the Hub has the very content: large files are known there by SHA-256, others as git names them."""
    if there is None:
        return False
    if there.lfs is not None:
        return _digest("sha256", b"", content) == there.lfs.sha256
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    return _digest("sha1", b"blob %d\0" % size, content) == there.blob_id


def _digest(name: str, start: bytes, content: Content) -> str:
    total = hashlib.new(name, start, usedforsecurity=False)
    if isinstance(content, bytes):
        total.update(content)
        return total.hexdigest()
    with content.open("rb") as file:
        while part := file.read(2**20):
            total.update(part)
    return total.hexdigest()


def _check_secret(files: Mapping[str, Content], secret: bytes) -> None:
    """Refuse to publish the token, wherever it may have got into a file."""
    for name, content in files.items():
        if _holds(content, secret):
            raise UsageError(f"{name} holds the access token, so nothing was published. Remove it from there.")


def _holds(content: Content, secret: bytes) -> bool:
    if isinstance(content, bytes):
        return secret in content
    if not content.stat().st_size:
        return False
    with content.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return whole.find(secret) >= 0
