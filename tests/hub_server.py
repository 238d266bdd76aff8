"""A small Hugging Face Hub on this machine, over plain folders.

    with LocalHub([data, tmp_path], token="hf_test") as hub: ... hub.url

or, to try a command by hand,

    python tests/hub_server.py --root DATA --root PUSHED --port 8123 --token hf_test
    export HF_ENDPOINT=http://127.0.0.1:8123 HF_TOKEN=hf_test HF_HUB_DISABLE_XET=1

The real clients (huggingface_hub, transformers, datasets) read from it and push to it, unchanged. They read these
variables when they are imported; uploads are those of plain LFS, hence the last one. A repository is a folder
ROOT/models/OWNER/NAME or ROOT/datasets/OWNER/NAME. It is looked for in every root; what is written goes to the last
one. The user `tester` may write to the namespaces `tester` and `org`. Each commit is a line of ROOT/history.jsonl.
Standard library only; listens on 127.0.0.1 only.
"""

from __future__ import annotations

import argparse
import base64
import functools
import hashlib
import json
import random
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

USER, NAMESPACES = "tester", ("tester", "org")
KINDS = ("models", "datasets")
LFS_SUFFIXES = {".safetensors", ".bin", ".pt", ".parquet", ".arrow", ".msgpack", ".h5", ".onnx", ".png"}
LFS_BYTES = 10 * 2**20
# What the Hub says of a token that it does not know; the client tells it from a missing repository by these words.
UNKNOWN_TOKEN = "Invalid credentials in Authorization header"


class HubError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str, code: str = "", **more: str) -> None:
        super().__init__(message)
        self.status, self.code, self.more = status, code, more


@dataclass
class Fault:
    """Requests that are answered with 500: those whose method and path it names, as often as it says.

    With `after`, what was asked for is done all the same, and only the answer is lost.
    """

    method: str
    path: str
    times: int = 1
    after: bool = False

    def hits(self, method: str, path: str) -> bool:
        if self.times < 1 or method != self.method or self.path not in path:
            return False
        self.times -= 1
        return True


class RandomFaults(Fault):
    """A share of all requests, drawn with a seed, is answered with 500."""

    def __init__(self, share: float, seed: int = 0) -> None:
        super().__init__("", "")
        self.share, self.random = share, random.Random(seed)

    def hits(self, method: str, path: str) -> bool:
        return self.random.random() < self.share


class Repositories:
    """Folders under one or more roots; only the last root is written to."""

    def __init__(self, roots: list[Path]) -> None:
        self.roots = [Path(root).resolve() for root in roots]
        self.home = self.roots[-1]
        self.home.mkdir(parents=True, exist_ok=True)
        self.private: set[tuple[str, str]] = set()
        self.lock = threading.RLock()

    def find(self, kind: str, repo_id: str) -> Path:
        for root in reversed(self.roots):
            base = (root / kind).resolve()
            folder = (base / repo_id).resolve()
            if folder.is_relative_to(base) and folder != base and folder.is_dir():
                return folder
        raise HubError(401, f"Repository not found: {kind}/{repo_id}", "RepoNotFound")

    def create(self, kind: str, repo_id: str, private: bool) -> None:
        if repo_id.split("/")[0] not in NAMESPACES:
            namespace = repo_id.split("/")[0]
            raise HubError(
                403, f'You don\'t have the rights to create a {kind[:-1]} under the namespace "{namespace}"'
            )
        with self.lock:
            try:
                self.find(kind, repo_id)
            except HubError:
                folder = (self.home / kind / repo_id).resolve()
                if not folder.is_relative_to(self.home / kind):
                    raise HubError(400, f"Not a repository id: {repo_id}") from None
                folder.mkdir(parents=True)
                (folder / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
                self.private |= {(kind, repo_id)} if private else set()
                self.log(kind, repo_id, "initial commit", [".gitattributes"], [])
                return
        raise HubError(409, f"You already created this {kind[:-1]} repo: {repo_id}", id=repo_id)

    def writable(self, kind: str, repo_id: str) -> Path:
        folder = self.find(kind, repo_id)
        if repo_id.split("/")[0] not in NAMESPACES or not folder.is_relative_to(self.home):
            raise HubError(403, f"You don't have the rights to write to {repo_id}")
        return folder

    def entry(self, folder: Path, path: Path) -> dict[str, Any]:
        git, sha256, size = digests(path)
        entry = {"type": "file", "path": str(path.relative_to(folder)), "oid": git, "size": size}
        if is_lfs(path.name, size):
            entry["lfs"] = {"oid": sha256, "size": size, "pointerSize": 134}
        return entry

    def sha(self, folder: Path) -> str:
        """The revision: it changes with the content, as a commit does."""
        listing = "".join(f"{path.relative_to(folder)}\0{digests(path)[0]}\n" for path in files_of(folder))
        return hashlib.sha1(listing.encode()).hexdigest()

    def log(self, kind: str, repo_id: str, message: str, added: list[str], deleted: list[str]) -> None:
        line = {"kind": kind, "repo": repo_id, "message": message, "added": added, "deleted": deleted}
        with self.lock, open(self.home / "history.jsonl", "a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each response waits 40 ms for an acknowledgement of its headers
    hub: LocalHub

    def do(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = b"".join(iter(self.chunk, b""))
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        try:
            fault = self.hub.fault(self.command, path)
            if fault and not fault.after:
                raise HubError(500, "injected failure")
            self.answer(path, lost=fault is not None)
        except HubError as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": str(error)}
            self.send_json({"error": str(error), **error.more}, error.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do

    def answer(self, path: str, *, lost: bool) -> None:
        self.lost = lost
        for method, pattern, action in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method.split():
                self.check_token(needed=self.command in ("POST", "PUT") and action not in OPEN)
                action(self, **found.groupdict())
                return
        raise HubError(404, f"No such route: {self.command} {path}", "EntryNotFound")

    def chunk(self) -> bytes:
        size = int(self.rfile.readline().split(b";")[0], 16)
        data = self.rfile.read(size)
        self.rfile.readline()
        return data

    def check_token(self, *, needed: bool) -> None:
        given = self.headers.get("Authorization")
        if not self.hub.token or given == f"Bearer {self.hub.token}" or not (given or needed):
            return
        raise HubError(401, UNKNOWN_TOKEN if given else "Invalid username or password.")

    def send(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        if status < 400 and getattr(self, "lost", False):
            data, status, headers = b"", 500, {}
        self.hub.requests.append((self.command, self.path, status))
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            if value:
                self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def send_json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def log_message(self, format: str, *args: object) -> None:
        pass

    def whoami(self) -> None:
        self.check_token(needed=True)
        token = {"displayName": "test", "role": "write"}
        user = {"type": "user", "id": "1", "name": USER, "fullname": "Tester", "orgs": [{"name": "org"}]}
        self.send_json({**user, "auth": {"type": "access_token", "accessToken": token}})

    def create(self) -> None:
        asked = json.loads(self.body)
        kind, repo_id = asked.get("type", "model") + "s", f"{asked.get('organization') or USER}/{asked['name']}"
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{repo_id}"
        try:
            self.hub.store.create(kind, repo_id, asked.get("visibility") == "private")
        except HubError as error:
            error.more["url"] = url
            raise
        self.send_json({"url": url, "id": repo_id, "name": repo_id})

    def validate_yaml(self) -> None:
        self.send_json({"errors": [], "warnings": []})

    def info(self, kind: str, repo: str, rev: str | None = None) -> None:
        folder = self.at(kind, repo, rev)
        siblings = []
        for path in files_of(folder):
            entry = self.hub.store.entry(folder, path)
            sibling: dict[str, Any] = {"rfilename": entry["path"]}
            if "blobs" in self.query:
                sibling |= {"size": entry["size"], "blobId": entry["oid"]}
                if "lfs" in entry:
                    sibling["lfs"] = {"sha256": entry["lfs"]["oid"], "size": entry["size"], "pointerSize": 134}
            siblings.append(sibling)
        times = dict.fromkeys(("lastModified", "createdAt"), "2026-01-01T00:00:00.000Z")
        names = {"_id": "0", "id": repo, "modelId": repo, "author": repo.split("/")[0]}
        states = {"private": (kind, repo) in self.hub.store.private, "gated": False, "disabled": False}
        counts = {"downloads": 0, "likes": 0, "tags": []}
        sha = self.hub.store.sha(folder)
        self.send_json({**names, **times, **states, **counts, "sha": sha, "siblings": siblings})

    def tree(self, kind: str, repo: str, rev: str, path: str | None = None) -> None:
        folder = self.at(kind, repo, rev)
        top = folder / path.strip("/") if path else folder
        if not top.exists():
            raise HubError(404, f"Entry not found: {path}", "EntryNotFound")
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        items = sorted(top.rglob("*") if recursive else top.iterdir())
        self.send_json([self.item(folder, item) for item in items])

    def paths_info(self, kind: str, repo: str, rev: str) -> None:
        folder = self.at(kind, repo, rev)
        if "json" in self.headers.get("Content-Type", ""):
            wanted = json.loads(self.body)["paths"]
        else:
            wanted = parse_qs(self.body.decode()).get("paths", [])
        items = [folder / name for name in ([wanted] if isinstance(wanted, str) else wanted)]
        self.send_json([self.item(folder, item) for item in items if item.exists()])

    def item(self, folder: Path, item: Path) -> dict[str, Any]:
        if item.is_file():
            return self.hub.store.entry(folder, item)
        name = str(item.relative_to(folder))
        return {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0}

    def refs(self, kind: str, repo: str) -> None:
        sha = self.hub.store.sha(self.at(kind, repo))
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": sha}
        self.send_json({"branches": [branch], "tags": [], "converts": []})

    def may_write(self, kind: str, repo: str) -> None:
        self.check_token(needed=True)
        self.hub.store.writable(kind, repo)
        self.send_json({})

    def preupload(self, kind: str, repo: str, rev: str) -> None:
        folder = self.hub.store.writable(kind, repo)
        files = []
        for asked in json.loads(self.body)["files"]:
            here = folder / asked["path"]
            mode = "lfs" if is_lfs(asked["path"], asked["size"]) else "regular"
            entry = self.hub.store.entry(folder, here) if here.is_file() else {"oid": None}
            oid = entry.get("lfs", entry)["oid"]
            files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.send_json({"files": files, "commitOid": self.hub.store.sha(folder)})

    def lfs_batch(self, repo: str, kind: str | None = None) -> None:
        self.hub.store.writable(kind or "models", repo)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if not self.blob(asked["oid"]).exists():
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}
            objects.append(answer)
        self.send_json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "content does not match its hash")
        blob = self.blob(oid)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(self.body)
        self.send(b"")

    def commit(self, kind: str, repo: str, rev: str) -> None:
        store, folder = self.hub.store, self.hub.store.writable(kind, repo)
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        operations = [(line["key"], line["value"]) for line in lines if line["key"] != "header"]
        with store.lock:
            if header.get("parentCommit") not in (None, store.sha(folder)):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            for key, value in operations:
                self.apply(folder, key, value)
            added = [value["path"] for key, value in operations if key in ("file", "lfsFile")]
            deleted = [value["path"] for key, value in operations if key.startswith("deleted")]
            store.log(kind, repo, header.get("summary", ""), added, deleted)
            sha = store.sha(folder)
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{repo}/commit/{sha}"
        self.send_json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def apply(self, folder: Path, key: str, value: dict[str, Any]) -> None:
        path = (folder / value["path"]).resolve()
        if not path.is_relative_to(folder):
            raise HubError(400, f"Outside the repository: {value['path']}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if key == "file":
            path.write_bytes(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            shutil.copyfile(self.blob(value["oid"]), path)
        else:
            path.unlink(missing_ok=True)

    def resolve(self, repo: str, rev: str, path: str, kind: str | None = None) -> None:
        folder = self.at(kind or "models", repo, rev)
        file = (folder / path).resolve()
        if not file.is_relative_to(folder) or not file.is_file():
            raise HubError(404, f"Entry not found: {path}", "EntryNotFound")
        entry, data = self.hub.store.entry(folder, file), file.read_bytes()
        etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.hub.store.sha(folder), "Accept-Ranges": "bytes"}
        if "lfs" in entry:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            self.send(data, 200, headers)
            return
        start, end = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
        if start > end:
            self.send(b"", 416, {"Content-Range": f"bytes */{len(data)}"})
            return
        self.send(data[start : end + 1], 206, {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"})

    def at(self, kind: str, repo: str, rev: str | None = None) -> Path:
        if (kind, repo) in self.hub.store.private and not self.headers.get("Authorization"):
            raise HubError(401, f"Repository not found: {kind}/{repo}", "RepoNotFound")
        folder = self.hub.store.find(kind, repo)
        if rev not in (None, "main", "refs/heads/main", self.hub.store.sha(folder)):
            raise HubError(404, f"Revision not found: {rev}", "RevisionNotFound")
        return folder

    def blob(self, oid: str) -> Path:
        return self.hub.store.home / "lfs" / oid[:2] / oid


def is_lfs(name: str, size: int) -> bool:
    return Path(name).suffix in LFS_SUFFIXES or size > LFS_BYTES


def digests(path: Path) -> tuple[str, str, int]:
    """The name of a file's content in git, its SHA-256, and its size."""
    stat = path.stat()
    return _digests(path, stat.st_mtime_ns, stat.st_size)


@functools.cache
def _digests(path: Path, mtime: int, size: int) -> tuple[str, str, int]:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % size + data).hexdigest(), hashlib.sha256(data).hexdigest(), size


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


ID = r"(?P<repo>[^/]+(?:/[^/]+)?)"
API = rf"/api/(?P<kind>{'|'.join(KINDS)})/{ID}"
REV = r"(?P<rev>[^/]+)"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate_yaml),
    ("GET", rf"{API}/revision/{REV}", Handler.info),
    ("GET", rf"{API}/tree/{REV}(?P<path>/.*)?", Handler.tree),
    ("POST", rf"{API}/paths-info/{REV}", Handler.paths_info),
    ("GET", rf"{API}/refs", Handler.refs),
    ("GET", rf"{API}/auth-check/write", Handler.may_write),
    ("POST", rf"{API}/preupload/{REV}", Handler.preupload),
    ("POST", rf"{API}/commit/{REV}", Handler.commit),
    ("GET", API, Handler.info),
    ("POST", rf"/(?:(?P<kind>datasets)/)?{ID}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_upload),
    ("GET HEAD", rf"/(?P<kind>datasets)/{ID}/resolve/{REV}/(?P<path>.+)", Handler.resolve),
    ("GET HEAD", rf"/{ID}/resolve/{REV}/(?P<path>.+)", Handler.resolve),
]
OPEN = {Handler.validate_yaml, Handler.paths_info, Handler.lfs_upload}  # reads, or guarded by the call before


class LocalHub:
    """The server, in a thread of this process.

    Attributes:
        url: Its address.
        faults: Requests that it fails.
        requests: Method, path and status of each answer so far.
    """

    def __init__(self, roots: list[Path], token: str | None = None, port: int = 0) -> None:
        self.store, self.token = Repositories(roots), token
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int]] = []
        self.lock = threading.Lock()
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def fault(self, method: str, path: str) -> Fault | None:
        """The fault that a request meets."""
        with self.lock:
            return next((fault for fault in self.faults if fault.hits(method, path)), None)

    def history(self) -> list[dict[str, Any]]:
        """What was committed, the first commit first."""
        path = self.store.home / "history.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def __enter__(self) -> LocalHub:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    more = {"help": "folder of repositories; given again, the last one takes what is written"}
    parser.add_argument("--root", action="append", required=True, type=Path, **more)
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--token", help="the token of the user")
    args = parser.parse_args()
    with LocalHub(args.root, args.token, args.port) as hub:
        print(f"export HF_ENDPOINT={hub.url} HF_HUB_DISABLE_XET=1", flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
