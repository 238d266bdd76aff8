"""Requests to the Hugging Face Hub: retries, clear errors, and models pinned to a commit."""

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

import yaml
from huggingface_hub import HfApi, constants, get_token, hf_hub_download, metadata_load
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from hf_elmix.errors import UsageError, in_one_line

__all__ = [
    "HTTPError",
    "ModelSource",
    "access_token",
    "hub_errors",
    "is_temporary",
    "licence_of",
    "model_files",
    "pin_model",
    "with_retries",
]

T = TypeVar("T")

# Seconds between tries. If a third of the requests fail, 8 tries fail together once in about 6,500 requests.
WAITS = (0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0)

# The files that a model and its tokenizer are loaded from.
CONFIG = "config.json"
TOKENIZER = ("tokenizer*.json", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json")
OTHER_VOCABULARIES = ("*.model", "bpe.codes")
SAFETENSORS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")

# The base class of the client's HTTP errors, which connection errors and timeouts share.
HTTPError: type[BaseException] = HfHubHTTPError.__mro__[1]


@dataclass(frozen=True)
class ModelSource:
    """A model pinned to a commit or to its files, so that every load reads the same bytes.

    Attributes:
        name: Model id on the Hub or folder, as given.
        revision: Commit on the Hub; None for a folder.
        files: Names of the files that are loaded.
        fingerprint: Hash of the names and contents of the files; it does not depend on their location.
        code: Whether Python code among the files may be run.
    """

    name: str
    revision: str | None
    files: tuple[str, ...]
    fingerprint: str
    code: bool = False

    def folder(self) -> Path:
        """Return the local folder with the files; files that are not in the cache are downloaded."""
        if self.revision is None:
            return Path(self.name).expanduser()
        return _download(self.name, self.revision, self.files)


def pin_model(name: str, revision: str | None = None, *, code: bool = False) -> ModelSource:
    """Find a model in a folder or on the Hub (without a connection, in the cache), and pin it.

    Args:
        name: Model id or folder.
        revision: Branch, tag or commit on the Hub; by default the main branch.
        code: Include the Python code in the model's repository, so that it can be run.

    Raises:
        OSError: If the model does not exist, or if the Hub cannot be reached and the model is not cached.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        files = model_files((path.name for path in folder.iterdir() if path.is_file()), code=code)
        return ModelSource(name, None, files, _fingerprint(folder, files), code)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"{name} is not a folder.")
    snapshot = Path(with_retries(partial(hf_hub_download, name, CONFIG, revision=revision))).parent
    files = _files_at(name, snapshot, code)
    _download(name, snapshot.name, files)
    return ModelSource(name, snapshot.name, files, _fingerprint(snapshot, files), code)


def licence_of(name: str, revision: str) -> dict[str, str]:
    """Return what the card of a model on the Hub states of its licence, by key; nothing if the card cannot be read."""
    try:
        stated = metadata_load(with_retries(partial(hf_hub_download, name, "README.md", revision=revision))) or {}
    except (OSError, HTTPError, ValueError, yaml.YAMLError):
        return {}
    keys = ("license", "license_name", "license_link")
    return {key: stated[key] for key in keys if isinstance(stated.get(key), str)}


def model_files(names: Iterable[str], *, code: bool = False, pickles: bool = True) -> tuple[str, ...]:
    """Select the files that a model and its tokenizer are loaded from; pickled weights only without safetensors."""
    top_level = sorted(name for name in names if "/" not in name)

    def matching(*patterns: str) -> list[str]:
        return [name for name in top_level if any(fnmatch(name, pattern) for pattern in patterns)]

    weights = matching(*SAFETENSORS) or (matching(*PICKLES) if pickles else [])
    return (*matching(CONFIG, *TOKENIZER, *OTHER_VOCABULARIES, *(("*.py",) if code else ())), *weights)


def with_retries(call: Callable[[], T], waits: Iterable[float] = WAITS) -> T:
    """Return the result of a function, which is called again after each of the waits if it fails temporarily.

    Args:
        call: The function.
        waits: Seconds to wait after each failure.

    Raises:
        Exception: The first error that is not temporary, or the error of the last call.
    """
    for seconds in waits:
        try:
            return call()
        except Exception as error:
            if not is_temporary(error):
                raise
        time.sleep(seconds)
    return call()


def is_temporary(error: BaseException) -> bool:
    """Return whether the same request may succeed later: the server failed, or there was no connection."""
    if (status := _status(error)) is not None:
        return status == 429 or status >= 500
    chain = list(_chain(error))
    offline = any(isinstance(link, OfflineModeIsEnabled) for link in chain)
    return not offline and any(isinstance(link, ConnectionError | TimeoutError | HTTPError) for link in chain)


def access_token(token: str | None = None) -> str:
    """Return the given token or else that of the standard login (``HF_TOKEN``, ``hf auth login``).

    Raises:
        UsageError: If there is no token.
    """
    token = token or get_token()
    if not token:
        raise UsageError("You are not logged in to the Hugging Face Hub. Type: hf auth login (or set HF_TOKEN).")
    return token


@contextmanager
def hub_errors(repo_id: str, token: str) -> Iterator[None]:
    """Turn errors of the Hub into one line that says what to do, without the token, which a response may repeat.

    Raises:
        UsageError: If the Hub refuses a request or cannot be reached.
    """
    try:
        yield
    except (HfHubHTTPError, HTTPError, HFValidationError, ConnectionError, RuntimeError) as error:
        # The client wraps errors during an upload in a RuntimeError; any other RuntimeError is a bug.
        if isinstance(error, RuntimeError) and _status(error) is None and not is_temporary(error):
            raise
        raise UsageError(_explain(error, repo_id).replace(token, "hf_…")) from None


def _explain(error: BaseException, repo_id: str) -> str:
    text, again = in_one_line(error), "Nothing is half uploaded; run the same command again."
    if isinstance(error, HFValidationError):
        return f"{text} Expected an id such as 'name/bert-mrpc'."
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing is sent to the Hub. Unset it to push."
    explanations = {
        None: f"Cannot reach {constants.ENDPOINT}: {text} {again}",
        401: "The Hub does not recognise your access token. Type: hf auth login (or set another HF_TOKEN).",
        403: f"Your access token does not allow you to write to {repo_id} ({getattr(error, 'server_message', text)}). "
        "Choose one of your namespaces, or a token with write access.",
        409: f"{repo_id} already exists, and your access token cannot open it. Choose another name.",
        412: f"{repo_id} changed during the push. Run the same command again to start from its new state.",
    }
    return explanations.get(_status(error), f"The Hub failed at {repo_id}: {text} {again}")


def _status(error: BaseException) -> int | None:
    """Return the HTTP status behind an error that libraries may have wrapped; None without a response."""
    responses = (getattr(link, "response", None) for link in _chain(error))
    return next((response.status_code for response in responses if response is not None), None)


def _chain(error: Any) -> Iterator[Any]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _files_at(name: str, snapshot: Path, code: bool) -> tuple[str, ...]:
    """Return the files of a model at a cached commit, from the Hub or, if it cannot be reached, from the cache."""
    try:
        info = with_retries(partial(HfApi().model_info, name, revision=snapshot.name))
    except (OSError, HTTPError):
        cached = model_files((path.name for path in snapshot.iterdir()), code=code)
        if not any(file.endswith((".safetensors", ".bin")) for file in cached):
            raise
        return cached
    return model_files((file.rfilename for file in info.siblings or ()), code=code)


def _download(name: str, revision: str, files: Iterable[str]) -> Path:
    """Return the folder of a commit's files; cached files cause no request."""
    paths = [with_retries(partial(hf_hub_download, name, file, revision=revision)) for file in files]
    return Path(paths[0]).parent


def _fingerprint(folder: Path, files: Iterable[str]) -> str:
    total = hashlib.sha256()
    for file in files:
        with (folder / file).open("rb") as opened:
            total.update(f"{file} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:16]
