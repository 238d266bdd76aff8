"""Asking the Hugging Face Hub: again where it stumbles, and once for each model."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, constants, get_token, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from hf_elmix.errors import UsageError, in_one_line

__all__ = [
    "OTHERS",
    "SAFETENSORS",
    "TEXTS",
    "HTTPError",
    "ModelSource",
    "access_token",
    "explained",
    "find_model",
    "may_pass",
    "with_retries",
]

T = TypeVar("T")

WAITS = (0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0)  # seconds; at a third of failing requests 8 tries miss once in 15000
TOO_MANY_REQUESTS, SERVER_ERROR = 429, 500

# What a model and its tokenizer are read from. Anything else in a folder (logs, other formats) has no influence.
CONFIG = "config.json"
TEXTS = (CONFIG, "tokenizer*.json", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json")
OTHERS = ("*.model", "bpe.codes")
SAFETENSORS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
CODE = ("*.py",)
PICKLES = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")

# The client's errors without an answer (no connection, a time out) share this class with those that have one.
HTTPError: type[BaseException] = HfHubHTTPError.__mro__[1]


@dataclass(frozen=True)
class ModelSource:
    """A model that has been found, pinned: the same files are read wherever and whenever it is loaded.

    Attributes:
        name: Model id on the Hub, or the folder, as it was given.
        revision: Commit on the Hub; None for a folder.
        files: The files it is read from.
        fingerprint: A hash over their names and contents, equal wherever they lie.
        code: Whether Python code among the files may be run.
    """

    name: str
    revision: str | None
    files: tuple[str, ...]
    fingerprint: str
    code: bool = False

    def folder(self) -> Path:
        """Where the files lie on this machine; those of the Hub are fetched first where they are not in the cache."""
        if self.revision is None:
            return Path(self.name).expanduser()
        return _fetch(self.name, self.revision, self.files)


def find_model(name: str, revision: str | None = None, *, code: bool = False) -> ModelSource:
    """Find a model on the Hub, or in a folder, and pin it.

    Where the Hub cannot be reached, the newest state of the model in the cache is taken.

    Args:
        name: Model id or folder.
        revision: Branch, tag or commit on the Hub; left out, its main branch.
        code: Take Python code along that the model brings, for it to be run.

    Raises:
        OSError: If there is none, or the Hub cannot be reached and the cache has none.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        files = _chosen((path.name for path in folder.iterdir() if path.is_file()), code)
        return ModelSource(name, None, files, _fingerprint(folder, files), code)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"{name} is no folder.")
    snapshot = Path(with_retries(partial(hf_hub_download, name, CONFIG, revision=revision))).parent
    files = _listed(name, snapshot, code)
    _fetch(name, snapshot.name, files)
    return ModelSource(name, snapshot.name, files, _fingerprint(snapshot, files), code)


def with_retries(call: Callable[[], T], waits: Iterable[float] = WAITS) -> T:
    """Call again, after a while, what failed for a reason that may pass.

    Args:
        call: What is called.
        waits: Seconds to wait after each failure; there is one call more than these.

    Returns:
        What the call returns.

    Raises:
        Exception: What the last call raised, or the first one for a reason that does not pass.
    """
    for seconds in waits:
        try:
            return call()
        except Exception as error:
            if not may_pass(error):
                raise
        time.sleep(seconds)
    return call()


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later: a server's own failure, or no connection."""
    status, links = _status(error), list(_chain(error))
    if status is not None:
        return status == TOO_MANY_REQUESTS or status >= SERVER_ERROR
    if any(isinstance(link, OfflineModeIsEnabled) for link in links):
        return False
    return any(isinstance(link, ConnectionError | TimeoutError | HTTPError) for link in links)


def _status(error: BaseException) -> int | None:
    """The status of the answer that an error came of, or None if there was none."""
    # Libraries wrap what the Hub answers in errors of their own: the answer decides, where there is one.
    answers = (link.response.status_code for link in _chain(error) if getattr(link, "response", None) is not None)
    return next(answers, None)


def access_token(given: str | None = None) -> str:
    """The token that is given, or else that of the standard login (``HF_TOKEN``, ``hf auth login``).

    Raises:
        UsageError: If there is none.
    """
    token = given or get_token()
    if not token:
        raise UsageError("You are not logged in to the Hugging Face Hub. Type: hf auth login (or set HF_TOKEN).")
    return token


@contextmanager
def explained(repo_id: str, token: str) -> Iterator[None]:
    """Say in one line what went wrong and what to do, without the token, which an answer may repeat.

    Args:
        repo_id: The repository that the requests are about.
        token: Access token that they are made with.

    Raises:
        UsageError: If the Hub refuses something or cannot be reached.
    """
    try:
        yield
    except (HfHubHTTPError, HTTPError, HFValidationError, ConnectionError, RuntimeError) as error:
        # The client wraps what comes of uploading a file in a RuntimeError; any other is none of the Hub's.
        if isinstance(error, RuntimeError) and _status(error) is None and not may_pass(error):
            raise
        raise UsageError(_reason(error, repo_id).replace(token, "hf_…")) from None


def _reason(error: BaseException, repo_id: str) -> str:
    said, again = in_one_line(error), "What is there is whole; the same command goes on."
    if isinstance(error, HFValidationError):
        return f"{said} Expected an id such as 'name/bert-mrpc'."
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the Hub is not asked. Unset it to push."
    reasons = {
        None: f"Cannot reach {constants.ENDPOINT}: {said} {again}",
        401: "The Hugging Face Hub does not know your access token. Type: hf auth login (or set another HF_TOKEN).",
        403: f"Your access token gives no right to write to {repo_id} ({getattr(error, 'server_message', said)}). "
        "Choose a namespace of yours, or a token that may write.",
        409: f"{repo_id} is there already, and your access token does not open it. Choose another name.",
        412: f"{repo_id} has changed while it was pushed to. The same command looks at it anew.",
    }
    return reasons.get(_status(error), f"The Hub failed at {repo_id}: {said} {again}")


def _chain(error: Any) -> Iterator[Any]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _listed(name: str, snapshot: Path, code: bool) -> tuple[str, ...]:
    """The files of a model at the commit that a snapshot is of."""
    try:
        info = with_retries(partial(HfApi().model_info, name, revision=snapshot.name))
    except (OSError, HTTPError):
        held = _chosen((path.name for path in snapshot.iterdir()), code)
        if not any(file.endswith((".safetensors", ".bin")) for file in held):
            raise
        return held
    return _chosen((file.rfilename for file in info.siblings or ()), code)


def _chosen(names: Iterable[str], code: bool) -> tuple[str, ...]:
    """Those of the files that are read: no pickles where there are safetensors, and code only if it was asked for."""
    top = sorted(name for name in names if "/" not in name)
    weights = _matching(top, SAFETENSORS) or _matching(top, PICKLES)
    return (*_matching(top, TEXTS + OTHERS + (CODE if code else ())), *weights)


def _matching(names: Iterable[str], patterns: tuple[str, ...]) -> list[str]:
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def _fetch(name: str, revision: str, files: Iterable[str]) -> Path:
    """The folder of a commit's files; one that is in the cache is not asked for."""
    paths = [with_retries(partial(hf_hub_download, name, file, revision=revision)) for file in files]
    return Path(paths[0]).parent


def _fingerprint(folder: Path, files: Iterable[str]) -> str:
    total = hashlib.sha256()
    for file in files:
        with (folder / file).open("rb") as opened:
            total.update(f"{file} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:16]
