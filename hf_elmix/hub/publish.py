"""Publishing files on the Hugging Face Hub in one commit, without overwriting the work of others by mistake."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard, constants, metadata_load
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import get_session, hf_raise_for_status, validate_repo_id
from pyarrow.parquet import read_table

from hf_elmix.errors import UsageError
from hf_elmix.hub.client import access_token, hub_errors, model_files, with_retries
from hf_elmix.hub.model_card import CARD, MARK, PICTURE

__all__ = ["Content", "Published", "claim_repo", "files_of_model", "own_namespace", "publish_files"]

Content = Path | bytes

WAITS = (1.0, 2.0, 4.0)  # seconds between tries; the client retries most requests by itself
CREATED_BY_HUB = {".gitattributes"}  # the files of a new repository

# Tokens of anybody, as scanners for secrets know them: of the Hub, of GitHub and of Amazon's cloud.
TOKEN = re.compile(
    r"(?<![A-Za-z0-9])((hf_|api_org_)[A-Za-z0-9]{34}|gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{82}|AKIA[A-Z0-9]{16})"
    r"(?![A-Za-z0-9])"
)


@dataclass(frozen=True)
class Published:
    """The result of a push.

    Attributes:
        url: The repository.
        commit: The new commit; None if the Hub already had all files.
    """

    url: str
    commit: str | None

    def __str__(self) -> str:
        return f"{self.url}: {f'uploaded (commit {self.commit[:12]})' if self.commit else 'nothing changed'}"


def claim_repo(
    repo_id: str,
    mark: Mapping[str, str],
    *,
    repo_type: str = "model",
    private: bool | None = None,
    overwrite: bool = False,
    token: str | None = None,
) -> str:
    """Check that a repository, which need not exist yet, can be pushed to; return its full id.

    Args:
        repo_id: Its id; by default in the user's namespace.
        mark: What the repository holds (see `hf_elmix.hub.model_card.model_mark`).
        repo_type: ``model`` or ``dataset``.
        private: Whether the repository is private; None for the default of its namespace.
        overwrite: Accept a repository that holds something else.
        token: Access token; by default that of the standard login (``HF_TOKEN`` or ``hf auth login``).

    Raises:
        UsageError: If the id is malformed; the token is missing, unknown or has no write access; the repository holds
            something else, or is public and should be private; or the Hub cannot be reached.
    """
    repo = _Repo(repo_id, dict(mark), repo_type, private, overwrite, token)
    with hub_errors(repo_id, repo.token):
        repo.complete_id()
        with_retries(repo.check, WAITS)
    return repo.id


def publish_files(files: Mapping[str, Content], repo_id: str, mark: Mapping[str, str], **options: Any) -> Published:
    """Upload files in one commit, so that nobody ever loads half of them; create the repository if needed.

    Only files that have changed are uploaded. Other files in the repository stay, unless it held something else and is
    overwritten.

    Args:
        files: Contents or local paths, by name in the repository.
        repo_id: As for `claim_repo`.
        mark: What the repository holds.
        options: ``repo_type``, ``private``, ``overwrite`` and ``token`` of `claim_repo`.

    Raises:
        UsageError: If a file contains the token or what looks like another, or `claim_repo` refuses the repository.
    """
    repo = _Repo(repo_id, dict(mark), **options)
    for name, content in files.items():
        texts = list(_texts(_read(name, content)))
        if _contains(content, repo.token.encode()) or any(repo.token in text for text in texts):
            raise UsageError(f"{name} contains the access token, so nothing was published. Remove the token from it.")
        if any(map(TOKEN.search, texts)):
            raise UsageError(f"{name} contains what looks like an access token, so nothing was published. Remove it.")
    with hub_errors(repo_id, repo.token):
        repo.complete_id()
        commit = with_retries(partial(repo.push, files), WAITS)
    folder = "" if repo.repo_type == "model" else f"{repo.repo_type}s/"
    return Published(f"{constants.ENDPOINT}/{folder}{repo.id}", commit)


def own_namespace(token: str | None = None) -> str:
    """Return the user's namespace.

    Raises:
        UsageError: If the user is not logged in, or the Hub cannot be reached.
    """
    token = access_token(token)
    with hub_errors("your repositories", token):
        return with_retries(HfApi(token=token).whoami, WAITS)["name"]


def files_of_model(folder: Any, root: Any = None) -> dict[str, Content]:
    """Return the files of a model, its tokenizer and its card, if it has one: no pickles, checkpoints or logs.

    Args:
        folder: A local `Path`, or a `UPath` at a URL, whose files are read.
        root: The folder of the study, if there is one.

    Raises:
        UsageError: If there is no model in safetensors; or if a file, the folder or one between it and the root is a
            link, behind which there may be anything.
    """
    held = [path.name for path in folder.iterdir() if path.is_file()]
    names = [*model_files(held, pickles=False), *(name for name in (CARD, PICTURE) if name in held)]
    if not any(name.endswith(".safetensors") for name in names):
        raise UsageError(f"Expected a model in {str(folder)!r}, but it has no .safetensors file.")
    for place in (folder, *(folder / name for name in names), *(one for one in folder.parents if root in one.parents)):
        if place.is_symlink():
            raise UsageError(
                f"Expected a file or folder, but {str(place)!r} is a link. Replace it with what it points to."
            )
    return {name: folder / name if isinstance(folder, Path) else (folder / name).read_bytes() for name in names}


@dataclass
class _Repo:
    """A repository on the Hub, which may not exist yet."""

    id: str
    mark: dict[str, str]
    repo_type: str = "model"
    private: bool | None = None
    overwrite: bool = False
    token: Any = None
    first_commit: str | None = None  # the newest commit before the first try to push

    def __post_init__(self) -> None:
        self.token = access_token(self.token)
        self.api = HfApi(token=self.token)

    def complete_id(self) -> None:
        """Refuse a malformed id, and add the user's namespace where it is missing."""
        validate_repo_id(self.id)
        if "/" not in self.id:
            self.id = f"{own_namespace(self.token)}/{self.id}"

    def push(self, files: Mapping[str, Content]) -> str | None:
        """Commit the files that changed, and return the new commit, even if an earlier try made it unnoticed."""
        info, replaced = self.check()
        self.check_card(files)
        if info is None:
            self.api.create_repo(self.id, repo_type=self.repo_type, private=self.private)
            info = self.api.repo_info(self.id, repo_type=self.repo_type)
        self.first_commit = self.first_commit or info.sha
        operations: list[Any] = [CommitOperationAdd(name, content) for name, content in sorted(files.items())]
        operations += [CommitOperationDelete(name) for name in sorted(replaced - files.keys())]
        message = f"Upload {', '.join(self.mark.values())} with hf_elmix"
        options: dict[str, Any] = {"repo_type": self.repo_type, "parent_commit": info.sha, "commit_message": message}
        try:
            commit = self.api.create_commit(self.id, operations, **options).oid
        except json.JSONDecodeError as error:  # the client parses a response before it looks at its status
            raise ConnectionError("The response was not JSON") from error
        return None if commit == self.first_commit else commit

    def check(self) -> tuple[Any, set[str]]:
        """Check that the repository can be pushed to.

        Returns:
            The Hub's description of it (None if it does not exist), and the files to delete because it holds something
            else.
        """
        try:
            info: Any = self.api.repo_info(self.id, repo_type=self.repo_type)
        except RepositoryNotFoundError:
            return None, set()
        try:
            self.api.auth_check(self.id, repo_type=self.repo_type, write=True)
        except HfHubHTTPError as error:
            if error.response.status_code != 404:  # a Hub without this check; the commit will tell
                raise
        if self.private and not info.private:
            raise UsageError(f"{self.id} already exists and is public. Make it private in its settings first.")
        files = {file.rfilename for file in info.siblings} - CREATED_BY_HUB
        held = self._mark_in(info.sha) if CARD in files else None
        if not files or held == self.mark:
            return info, set()
        if not self.overwrite:
            found = ", ".join(map(repr, held.values())) if isinstance(held, Mapping) else "not made by hf_elmix"
            raise UsageError(
                f"{self.id} already exists and holds something else ({found}, not "
                f"{', '.join(map(repr, self.mark.values()))}). Choose another name, or --overwrite to replace all its "
                "files."
            )
        return info, files

    def check_card(self, files: Mapping[str, Content]) -> None:
        """Refuse a card that the Hub does not accept, before a repository is created for it."""
        content = files.get(CARD)
        if content is None:
            return
        try:
            text = content.decode() if isinstance(content, bytes) else content.read_text(encoding="utf-8")
            self._validate(str(RepoCard(text)))
        except (ValueError, yaml.YAMLError) as error:  # the message of a ValueError is the Hub's response
            raise UsageError(
                f"The Hub refuses {CARD} of {self.id}: {_messages_in(str(error))}. Nothing was uploaded, and the "
                "files on this machine are as they were. If the model has a folder of its own, correct its "
                f"{CARD} and type: elmix push FOLDER --hub_id {self.id}"
            ) from error

    def _validate(self, card: str) -> None:
        """Ask the Hub whether it accepts a card; that of `RepoCard` asks huggingface.co, before huggingface_hub 2."""
        body = {"repoType": self.repo_type, "content": card}
        url = f"{self.api.endpoint}/api/validate-yaml"
        response = get_session().post(url, json=body, headers={"Accept": "text/plain"})
        if response.status_code == 400:
            raise ValueError(response.text)
        hf_raise_for_status(response)

    def _mark_in(self, commit: str) -> Any:
        """Read from the card what the repository holds; None if hf_elmix did not write the card."""
        path = self.api.hf_hub_download(self.id, CARD, repo_type=self.repo_type, revision=commit)
        try:
            return (metadata_load(path) or {}).get(MARK)
        except (ValueError, yaml.YAMLError):
            return None


def _messages_in(response: str) -> str:
    """The messages in the Hub's answer to a card, or the answer itself."""
    try:
        return "; ".join(error["message"] for error in json.loads(response)["errors"])
    except (ValueError, KeyError):
        return " ".join(response.split())[:500]


def _contains(content: Content, secret: bytes) -> bool:
    if isinstance(content, bytes):
        return secret in content
    if not content.stat().st_size:  # an empty file cannot be mapped
        return False
    with content.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return mapped.find(secret) >= 0


def _read(name: str, content: Content) -> Any:
    """Return what a reader finds in a table, JSON or Markdown file; None in any other, or if it cannot be read."""
    kind = PurePath(name).suffix
    if kind not in (".json", ".md", ".parquet"):
        return None
    data = content if isinstance(content, bytes) else content.read_bytes()
    try:
        if kind == ".parquet":
            table = read_table(BytesIO(data))
            return {name: table[name].unique().to_pylist() for name in table.column_names}
        return json.loads(data) if kind == ".json" else data.decode().replace("\\", "")  # without Markdown's escapes
    except (ValueError, RecursionError):
        return None


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in a value from a file, and those in JSON inside them."""
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, str):
        yield value
        if value.startswith(("{", "[", '"')):
            with suppress(ValueError, RecursionError):
                yield from _texts(json.loads(value))
