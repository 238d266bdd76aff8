from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx  # the client's HTTP library, whichever it is

from glue_runs.protocol import GLUE
from glue_runs.tasks import TASKS
from hf_elmix.hub.client import is_temporary, pin_model, with_retries
from hf_elmix.text.rows import digest, load_task

WEIGHTS = "model.safetensors"


def answer(status: int) -> HfHubHTTPError:
    request = httpx.Request("GET", "http://hub/x")
    return HfHubHTTPError("an answer", response=httpx.Response(status, request=request))


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
        (httpx.ConnectError("refused"), True),
        (httpx.ReadTimeout("slow"), True),
        (caused(OSError("not found in the cache"), httpx.ConnectError("refused")), True),
        (ConnectionResetError(), True),
        (OfflineModeIsEnabled("offline"), False),
        (caused(OSError("not found in the cache"), OfflineModeIsEnabled("offline")), False),
        (FileNotFoundError("no such file"), False),
        (ValueError("no such split"), False),
    ],
)
def test_temporary_errors(error, expected):
    assert is_temporary(error) is expected


def test_retries_until_success():
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
def test_gives_up_after_permanent_or_last_error(status, tries):
    calls = []

    def call() -> None:
        calls.append(1)
        raise answer(status)

    with pytest.raises(HfHubHTTPError):
        with_retries(call, waits=(0, 0, 0))
    assert len(calls) == tries


def test_waits_grow(monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr("hf_elmix.hub.client.time", SimpleNamespace(sleep=waited.append))

    def call() -> None:
        raise answer(500)

    with pytest.raises(HfHubHTTPError):
        with_retries(call)
    assert waited == sorted(waited)
    assert sum(waited) < 20


def test_fingerprint_depends_on_contents_only(encoder, tmp_path):
    source = pin_model(encoder)
    assert source.revision is None
    assert source.folder() == Path(encoder)
    copy = shutil.copytree(encoder, tmp_path / "copy")
    (copy / "all_results.json").write_text("{}")  # what a finished run leaves there changes nothing
    assert pin_model(str(copy)).fingerprint == source.fingerprint
    weights = bytearray((copy / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (copy / WEIGHTS).write_bytes(weights)
    assert pin_model(str(copy)).fingerprint != source.fingerprint


def test_safetensors_are_preferred_to_pickles(tmp_path):
    for name in ("config.json", "pytorch_model.bin", "training_args.bin"):
        (tmp_path / name).write_text(name)
    assert pin_model(str(tmp_path)).files == ("config.json", "pytorch_model.bin")
    (tmp_path / WEIGHTS).write_text("weights")
    assert pin_model(str(tmp_path)).files == ("config.json", WEIGHTS)


RUN = """
import json, pickle, sys, time
time.sleep = lambda seconds: None  # between tries
from glue_runs.study import glue_study

path, *roles = sys.argv[1:]
for role in roles:
    if role == "driver":
        options = {"model": "owner/encoder", "max_length": 32, "max_train_samples": 8, "in_memory": True}
        pickle.dump(glue_study(["rte"], **options).tasks[0], open(path, "wb"))
    task = pickle.load(open(path, "rb"))
    inputs = task.inputs(0)
    model = inputs.trainer["model"]
    shown = {"name": model.name_or_path, "sum": float(sum(weight.sum() for weight in model.parameters()))}
    print(json.dumps({**inputs.provenance, **task.settings, **shown}), flush=True)
    sys.stdin.readline()
"""


@pytest.mark.hub
@pytest.mark.slow
def test_pin_model_on_hub_that_fails_a_third_of_requests(hub, encoder, tmp_path):
    """Everything is fetched in the end, cached files cause no request, and another machine gets the same files."""
    from hub_server import LocalHub, RandomFaults

    shutil.copytree(encoder, tmp_path / "models_root" / "models" / "owner" / "encoder")
    with LocalHub([hub, tmp_path / "models_root", tmp_path / "pushed"]) as server:
        server.faults.append(RandomFaults(0.34))

        def run(home: str, *roles: str) -> Iterator[tuple[dict, list[str]]]:
            more = {"HF_HOME": str(tmp_path / home), "HF_ENDPOINT": server.url, "HF_HUB_DISABLE_XET": "1"}
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "0", **more}
            words = [sys.executable, "-c", RUN, str(tmp_path / "task"), *roles]
            with subprocess.Popen(words, stdin=-1, stdout=-1, text=True, env=environment) as process:
                for _ in roles:
                    server.requests.clear()
                    line = process.stdout.readline()
                    asked = [f"{path} {status}" for _, path, status in server.requests]
                    yield json.loads(line), [one for one in asked if "owner/encoder" in one or "nyu-mll" in one]
                    print(file=process.stdin, flush=True)

        (first, requests), worker, (again, more) = run("one", "driver", "worker", "driver")
        assert any(line.endswith("500") for line in requests)
        commits = [first["model_revision"], first["data_revision"]]
        assert [len(commit) for commit in commits] == [40, 40]
        assert first["name"] == first["model"] == "owner/encoder"
        assert first["weights"] == pin_model(encoder).fingerprint
        rows = load_task(TASKS["rte"], str(hub / "datasets" / GLUE), max_train_samples=8)
        assert first["rows"] == {split: digest(part, TASKS["rte"]) for split, part in rows.items()}
        assert worker == (first, [])  # a worker asks nobody
        assert again == first
        assert not any(WEIGHTS in line for line in more)
        ((elsewhere, requests),) = run("two", "worker")
        assert elsewhere == first
        assert requests
        assert all("datasets" not in line and commits[0] in line for line in requests)  # the same commit, and no rows
