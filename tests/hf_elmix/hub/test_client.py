from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from hf_elmix.hub.client import find_model, is_temporary, with_retries

WEIGHTS = "model.safetensors"


def answer(status: int) -> HfHubHTTPError:
    request = httpx2.Request("GET", "http://hub/x")
    return HfHubHTTPError("an answer", response=httpx2.Response(status, request=request))


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (answer(500), True),
        (answer(503), True),
        (answer(429), True),
        (answer(404), False),
        (answer(401), False),
        (caused(ConnectionError("no luck"), answer(404)), False),
        (caused(ValueError("no luck"), answer(502)), True),
        (httpx2.ConnectError("refused"), True),
        (httpx2.ReadTimeout("slow"), True),
        (caused(OSError("not found in the cache"), httpx2.ConnectError("refused")), True),
        (ConnectionResetError(), True),
        (OfflineModeIsEnabled("offline"), False),
        (caused(OSError("not found in the cache"), OfflineModeIsEnabled("offline")), False),
        (FileNotFoundError("no such file"), False),
        (ValueError("no such split"), False),
    ],
)
def test_what_is_temporary(error, expected):
    assert is_temporary(error) is expected


def test_tries_again_until_it_succeeds():
    failures = iter([answer(500), answer(503)])
    calls = []

    def call() -> str:
        calls.append(1)
        for error in failures:
            raise error
        return "done"

    assert with_retries(call, waits=(0, 0, 0)) == "done"
    assert len(calls) == 3


@pytest.mark.parametrize(("status", "tries"), [(500, 4), (404, 1)])
def test_gives_up(status, tries):
    calls = []

    def call() -> None:
        calls.append(1)
        raise answer(status)

    with pytest.raises(HfHubHTTPError):
        with_retries(call, waits=(0, 0, 0))
    assert len(calls) == tries


def test_waits_longer_each_time(monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr("hf_elmix.hub.client.time", SimpleNamespace(sleep=waited.append))

    def call() -> None:
        raise answer(500)

    with pytest.raises(HfHubHTTPError):
        with_retries(call)
    assert waited == sorted(waited)
    assert sum(waited) < 20


def test_a_folder_is_known_by_what_is_in_it(encoder, tmp_path):
    source = find_model(encoder)
    assert source.revision is None
    assert source.folder() == Path(encoder)
    copy = shutil.copytree(encoder, tmp_path / "copy")
    (copy / "all_results.json").write_text("{}")  # what a finished run leaves there changes nothing
    assert find_model(str(copy)).fingerprint == source.fingerprint
    weights = bytearray((copy / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (copy / WEIGHTS).write_bytes(weights)
    assert find_model(str(copy)).fingerprint != source.fingerprint


def test_pickles_are_left_alone_where_there_are_safetensors(tmp_path):
    for name in ("config.json", "pytorch_model.bin", "training_args.bin"):
        (tmp_path / name).write_text(name)
    assert find_model(str(tmp_path)).files == ("config.json", "pytorch_model.bin")
    (tmp_path / WEIGHTS).write_text("weights")
    assert find_model(str(tmp_path)).files == ("config.json", WEIGHTS)


SERVE = """
import sys
sys.path.insert(0, {hub!r})
from serve import Handler, LocalHub

def log(handler, format, *args):
    print(args[0].rsplit(" ", 1)[0], args[1], file=open({log!r}, "a"))

Handler.log_message = log
with LocalHub([{hub!r}, {models!r}, {pushed!r}], fail={fail}) as hub:
    hub.verbose = True
    print(hub.url, flush=True)
    sys.stdin.read()
"""

RUN = """
import json, pickle, sys
from glue_runs.study import glue_task
from glue_runs.tasks import TASKS

if sys.argv[1] == "driver":
    task = glue_task(TASKS["rte"], "owner/encoder", "nyu-mll/glue", 32, max_train_samples=8, in_memory=True)
    pickle.dump(task, open(sys.argv[2], "wb"))
task = pickle.load(open(sys.argv[2], "rb"))
materials = task.materials(0)
model = materials.trainer["model"]
shown = {"name": model.name_or_path, "sum": float(sum(weight.sum() for weight in model.parameters()))}
print(json.dumps({**materials.provenance, **task.settings, **shown}))
"""


@pytest.mark.hub
@pytest.mark.slow
def test_a_hub_that_fails_a_third_of_the_requests(hub, encoder, tmp_path):
    """Everything is fetched in the end, what is in the cache is not asked for, and a new machine gets the same."""
    models, log = tmp_path / "models_root", tmp_path / "log"
    shutil.copytree(encoder, models / "models" / "owner" / "encoder")
    names = {"hub": str(hub), "models": str(models), "pushed": str(tmp_path / "pushed"), "log": str(log)}
    server = subprocess.Popen([sys.executable, "-c", SERVE.format(**names, fail=0.34)], stdout=-1, stdin=-1, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()

        def run(role: str, home: str) -> tuple[dict, list[str]]:
            log.write_text("")
            more = {"HF_HOME": str(tmp_path / home), "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1"}
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "0", **more}
            words = [sys.executable, "-c", RUN, role, str(tmp_path / "task")]
            done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
            assert done.returncode == 0, done.stderr
            asked = [line for line in log.read_text().splitlines() if "owner/encoder" in line or "nyu-mll" in line]
            return json.loads(done.stdout.splitlines()[-1]), asked

        first, requests = run("driver", "one")
        assert any(line.endswith(("500", "503")) for line in requests)
        commits = [first["model_revision"], first["data_revision"]]
        assert [len(commit) for commit in commits] == [40, 40]
        assert first["name"] == first["model"] == "owner/encoder"
        assert first["weights"] == find_model(encoder).fingerprint
        assert run("worker", "one") == (first, [])  # a worker asks nobody
        elsewhere, requests = run("worker", "two")
        assert elsewhere == first
        assert requests
        assert all("datasets" not in line and commits[0] in line for line in requests)  # the same commit, and no rows
        again, requests = run("driver", "one")
        assert again == first
        assert not any(WEIGHTS in line for line in requests)
    finally:
        server.communicate("")
