"""A real Ray cluster of two nodes on this machine, and S3 as `moto` serves it, all on 127.0.0.1."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from hf_elmix.errors import UsageError
from hf_elmix.predictions.records import FILE
from hf_elmix.study.checkpoints import Checkpoints
from hf_elmix.study.executors import cluster
from hf_elmix.study.executors import ray as executor
from hf_elmix.study.executors.cluster import Guard
from hf_elmix.study.executors.local import run_in_workers
from hf_elmix.study.executors.ray import run_on_ray
from hf_elmix.study.grid import run_grid
from hf_elmix.study.runner import run_branch
from hf_elmix.study.shared_prefixes import Branch, Outcome
from hf_elmix.study.spec import RunKey
from hf_elmix.study.store import MODEL, Store

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")


METHODS = ("ce", "0", "0-0.5")
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


@pytest.fixture(scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    """Ray on 127.0.0.1, and without the number of threads that whoever runs the tests has set."""
    # Not a folder of pytest's: the path of a socket must be short.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t-") as short, pytest.MonkeyPatch.context() as patch:
        for name, value in {**LOOPBACK, "RAY_TMPDIR": short}.items():
            patch.setenv(name, value)
        patch.delenv("OMP_NUM_THREADS", raising=False)
        yield patch


@pytest.fixture(scope="module")
def bucket(environment) -> Iterator[str]:
    """URL of an empty bucket of an S3 that the environment points to."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**keys, "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port())}.items():
        environment.setenv(name, value)
    s3().mkdir("bucket")
    yield "s3://bucket"
    server.stop()


def s3() -> Any:
    """The server as another process sees it."""
    import s3fs

    return s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)


@pytest.fixture(scope="module")
def nodes(bucket, toy, tmp_path_factory) -> Iterator[Any]:
    """Two nodes with a processor each, that have nothing in common but this machine."""
    import ray
    from ray.cluster_utils import Cluster

    for module in (__name__, toy.__module__):  # Nothing of the tests is installed where the work is done.
        ray.cloudpickle.register_pickle_by_value(sys.modules[module])
    cluster = Cluster()
    for number in (1, 2):
        scratch = tmp_path_factory.mktemp(f"node{number}-")
        cluster.add_node(num_cpus=1, include_dashboard=False, env_vars={"TMPDIR": str(scratch)})
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def alone(toy, tmp_path_factory) -> Store:
    """What the study leaves that trains every run by itself, in this process."""
    store = Store(tmp_path_factory.mktemp("alone"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = partial(run_branch, cohorts=True)
    run_grid(toy.study(None, *METHODS), store, run, sharing=False, keep="models")
    torch.set_num_threads(threads)
    return store


def noted_branch(study: Any, store: Store, branch: Branch, progress: Any, *, notes: Path, **options: Any) -> Outcome:
    """The real thing, with a note of the node that did it, and killed once: when a branch goes on from another one."""
    Path(notes, f"node-{uuid.uuid4().hex}").write_text(tempfile.gettempdir())

    def step_or_die(step: int, *more: Any) -> None:
        progress(step, *more)
        if branch.start and step == branch.start + 3 and not (notes / "killed").exists():
            (notes / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return run_branch(study, store, branch, step_or_die, **options)


def same(store: Store, alone: Store) -> bool:
    """Whether two studies have left the same results, and the very same weights and predictions."""
    records = {record.key: record for record in store.records()}
    others = {record.key: record for record in alone.records()}
    assert records.keys() == others.keys()
    for key, record in records.items():
        for name in ("status", "scores", "training", "settings", "error"):
            assert getattr(record, name) == getattr(others[key], name), (key, name)
        for name in (f"{MODEL}/model.safetensors", FILE):
            one, other = ((place.folder_of(key) / name).read_bytes() for place in (store, alone))
            assert one == other, (key, name)
    return True


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder", "url"])
def test_two_nodes_and_a_killed_process_give_what_one_process_gives(place, nodes, bucket, alone, toy, tmp_path):
    store = Store(tmp_path / "runs" if place == "folder" else f"{bucket}/runs")
    study, notes = toy.study(None, *METHODS), tmp_path / "notes"
    notes.mkdir()
    executor = partial(run_on_ray, address=nodes.address, folder=str(store.folder))
    run = partial(noted_branch, notes=notes, cohorts=True)
    counts = run_grid(study, store, run, executor=executor, keep="models")
    assert counts == {"done": 3}
    assert (notes / "killed").exists()
    assert same(store, alone)
    records = list(store.records())
    assert sum(record.cost["steps_inherited"] for record in records) > 0
    assert {record.provenance["threads"] for record in records} == {1}
    scratches = {Path(note.read_text()) for note in notes.glob("node-*")}
    assert len(scratches) == 2, "both nodes have been at work"
    left = s3().find("bucket/runs") if place == "url" else map(str, (tmp_path / "runs").rglob("*"))
    assert [name for name in left if "step" in name or ".ray-" in name] == []
    # Of a process that was killed the scratch stays; there was one.
    assert len([path for scratch in scratches for path in scratch.glob("elmix-*")]) <= 1


@pytest.mark.slow
def test_a_url_does_for_workers_of_this_machine(bucket, alone, toy):
    store = Store(f"{bucket}/workers")
    executor = partial(run_in_workers, workers=1)
    run = partial(run_branch, cohorts=True)
    run_grid(toy.study(None, *METHODS), store, run, executor=executor, keep="models")
    assert same(store, alone)


# What follows trains nothing.


def branches(count: int) -> list[Branch]:
    return [Branch("toy", seed, ("ce",), ("ce",)) for seed in range(count)]


def take_from(waiting: list[Branch]) -> Callable[[], Branch | None]:
    return lambda: waiting.pop(0) if waiting else None


def steps_of(branch: Branch, progress: Any) -> Outcome:
    for step in range(1, 31):
        progress(step, 30)
        time.sleep(0.04)
    return Outcome(branch, checkpoint=str(os.getpid()))


def full_disk(branch: Branch, progress: Any, *, notes: Path) -> Outcome:
    """The first branch finds the disk full when another one is at work, which would never end."""
    if branch.seed == 0:
        while not list(notes.iterdir()):
            time.sleep(0.1)
        raise OSError(28, "No space left for a checkpoint or model. Free some", "/a/folder")
    while True:
        (notes / f"at_work{branch.seed}").touch()
        time.sleep(0.1)


def wait_for_go(branch: Branch, progress: Any, *, notes: Path) -> Outcome:
    import ray

    Path(notes, str(branch.seed)).write_text(ray.get_runtime_context().get_node_id())
    progress(1, 2)
    while not (notes / "go").exists():
        time.sleep(0.1)
    return Outcome(branch)


@pytest.mark.ray
@pytest.mark.slow
def test_every_step_is_reported_once_and_in_order(nodes, tmp_path):
    seen: list[tuple[int, int, int]] = []
    times: list[float] = []

    def progress(branch: Branch, step: int, steps: int) -> None:
        seen.append((branch.seed, step, steps))
        times.append(time.monotonic())

    outcomes = list(run_on_ray(take_from(branches(5)), steps_of, progress, address=nodes.address, folder=tmp_path))
    assert sorted(outcome.branch.seed for outcome in outcomes) == [0, 1, 2, 3, 4]
    for seed in range(5):
        assert [step for step in seen if step[0] == seed] == [(seed, step, 30) for step in range(1, 31)]
    assert len({round(moment, 2) for moment in times}) > 5, "steps were reported before their branch had ended"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
@pytest.mark.slow
def test_outcomes_bring_more_branches(nodes):
    waiting = branches(1)
    done = []
    for outcome in run_on_ray(take_from(waiting), lambda branch, _: Outcome(branch), ignore, address=nodes.address):
        done.append(outcome.branch.seed)
        if len(done) < 4:
            waiting.append(Branch("toy", len(done), ("ce",), ("ce",)))
    assert done == [0, 1, 2, 3]


@pytest.mark.ray
@pytest.mark.slow
def test_a_full_disk_ends_all_branches_and_not_the_connection_of_the_caller(nodes, tmp_path):
    import ray

    ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
    try:
        with pytest.raises(OSError, match="No space left for a checkpoint") as raised:
            list(run_on_ray(take_from(branches(4)), partial(full_disk, notes=tmp_path), ignore))
        assert (raised.value.errno, raised.value.filename) == (28, "/a/folder")
        last_signs = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        time.sleep(1)
        assert last_signs == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}, "nobody works on"
        assert ray.is_initialized()
    finally:
        ray.shutdown()


@pytest.mark.ray
@pytest.mark.slow
def test_a_machine_without_the_code_is_reported(nodes, monkeypatch):
    module = types.ModuleType("only_here")
    exec("def run(branch, progress): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    task = "cannot do the study: .*No module named 'only_here'.* pip install"
    with pytest.raises(UsageError, match=task) as raised:
        list(run_on_ray(take_from(branches(2)), module.run, ignore, address=nodes.address))
    assert "\n" not in str(raised.value)


@pytest.mark.ray
@pytest.mark.slow
def test_a_node_that_goes_loses_only_what_it_was_doing(nodes, tmp_path):
    """Its branch goes on elsewhere; the others do not notice."""
    node = nodes.add_node(num_cpus=1)
    begun: dict[str, str] = {}

    def remove_node(branch: Branch, step: int, steps: int) -> None:
        for note in (note for note in tmp_path.iterdir() if note.name.isdigit()):
            begun.setdefault(note.name, note.read_text())
        if node.node_id in begun.values() and not (tmp_path / "go").exists():
            nodes.remove_node(node, allow_graceful=False)
            (tmp_path / "go").touch()

    waiting = branches(3)
    outcomes = []
    run = partial(wait_for_go, notes=tmp_path)
    for outcome in run_on_ray(take_from(waiting), run, remove_node, address=nodes.address):
        outcomes.append(outcome)
        if outcome.died is not None:
            waiting.append(outcome.branch)
    died = [outcome for outcome in outcomes if outcome.died is not None]
    assert [begun[str(outcome.branch.seed)] for outcome in died] == [node.node_id]
    assert "\n" not in (died[0].died or "")
    assert sorted(outcome.branch.seed for outcome in outcomes if outcome.died is None) == [0, 1, 2]


def ignore(*_: object) -> None:
    pass


class Board:
    """Counts what a task writes."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.write = self

    def remote(self, number: int, step: tuple[int, int]) -> None:
        self.written.append((number, step))


def test_a_fast_task_does_not_flood_the_driver(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(executor.time, "monotonic", lambda: now[0])
    board = Board()
    note = executor._TaskProgress(board, 7)
    for step in range(1, 101):
        note(step, 100)
        now[0] += 0.01
    assert len(board.written) == 2
    assert board.written[0] == (7, (1, 100, []))
    assert note.last[:2] == (100, 100)


class Cluster:
    """What is asked of the module `ray` before any task, of a cluster that need not exist."""

    def __init__(self, **resources: float) -> None:
        self.resources, self.asked = resources, dict[str, float]()

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, **options: float) -> Callable[[Any], Any]:
        self.asked |= options
        return lambda thing: type("", (), {"remote": lambda *_: None})

    def put(self, value: object) -> None:
        pass


@pytest.fixture
def head() -> Iterator[socket.socket]:
    """What answers where the head of a cluster should."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def guard() -> Guard:
    """That of a cluster of our own, before it watches."""
    return Guard(Path(), "")


@pytest.mark.parametrize(
    ("resources", "tasks_per_gpu", "gpus", "at_a_time"),
    [
        ({"CPU": 6.0}, 1, 0, 12),
        ({"CPU": 64.0, "GPU": 8.0}, 1, 1, 16),
        ({"CPU": 64.0, "GPU": 2.0}, 3, 1 / 3, 12),
        ({"CPU": 2.0, "GPU": 8.0}, 1, 1, 4),
        ({"memory": 1.0}, 1, 0, 2),
    ],
    ids=["processors", "GPUs", "shared GPUs", "few processors", "nothing yet"],
)
def test_twice_as_many_tasks_as_the_cluster_can_do_with_a_gpu_each_if_there_are_any(
    resources, tasks_per_gpu, gpus, at_a_time, head, monkeypatch
):
    now = [0.0]
    monkeypatch.setattr(executor.time, "monotonic", lambda: now[0])
    ray = Cluster(**resources)
    tasks = executor._Tasks(ray, steps_of, ignore, None, head.getsockname(), guard(), tasks_per_gpu)
    assert (ray.asked["num_gpus"], ray.asked["max_retries"]) == (gpus, 0)
    assert tasks.limit() == at_a_time
    ray.resources = {name: 2 * count for name, count in resources.items()}
    now[0] += executor.PERIOD
    assert tasks.limit() == (2 * at_a_time if "CPU" in resources else 2), "it has grown"


def test_runs_that_share_gpus_need_a_cluster_with_gpus(head):
    with pytest.raises(UsageError, match="Expected GPUs for 3 runs on each, but the Ray cluster has none."):
        executor._Tasks(Cluster(CPU=6.0), steps_of, ignore, None, head.getsockname(), guard(), 3)


def test_a_head_that_is_gone_is_said_in_one_line_and_asked_nothing_more(head, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(executor.time, "monotonic", lambda: now[0])
    ray = Cluster(CPU=2.0)
    tasks = executor._Tasks(ray, steps_of, ignore, None, head.getsockname(), guard())
    host, port = head.getsockname()
    assert tasks.limit() == 4
    tasks.submit(branches(1)[0])
    head.close()
    now[0] += executor.PERIOD
    monkeypatch.setattr(ray, "cluster_resources", lambda: pytest.fail("Ray would end this process"))
    with pytest.raises(OSError, match=rf"^The head .* at {host}:{port} is gone. Finished runs are kept; .*\.$"):
        tasks.limit()
    tasks.cancel()  # which finds nothing to wait for


def test_a_cluster_of_our_own_without_any_machine_is_gone(head):
    with pytest.raises(OSError, match="is gone"):
        executor._Tasks(Cluster(), steps_of, ignore, None, head.getsockname(), guard()).limit()


@pytest.mark.parametrize("own", [False, True])
def test_a_machine_that_dies_is_the_head_of_a_cluster_of_our_own(head, own):
    ray = pytest.importorskip("ray")
    error = ray.exceptions.LocalRayletDiedError()

    def get(reference: object) -> None:
        raise error

    cluster = Cluster(CPU=2.0)
    cluster.get, cluster.exceptions = get, ray.exceptions
    tasks = executor._Tasks(cluster, steps_of, ignore, None, head.getsockname(), guard() if own else None)
    if own:
        with pytest.raises(OSError, match="is gone"):
            tasks._result(None, branches(1)[0])
    else:
        assert "raylet died" in tasks._result(None, branches(1)[0])[0].died


def test_a_machine_that_does_not_see_the_folder_refuses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "elsewhere"
    answer, _ = executor._work(branches(1)[0], 1, steps_of, Board(), folder / ".ray-1", tmp_path)
    assert isinstance(answer, UsageError)
    assert f"does not see {folder}" in str(answer)
    assert "s3://" in str(answer)
    assert not folder.exists()


def test_nothing_to_do_needs_no_cluster(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert list(run_on_ray(lambda: None, steps_of, ignore, address="127.0.0.1:1")) == []


class Refuse(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def website() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def free_address() -> str:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{line.getsockname()[1]}"


@pytest.mark.ray
@pytest.mark.parametrize(
    ("address", "task"),
    [
        ("FREE", "refused"),
        ("ray://FREE", "refused"),
        ("WEBSITE", "something else answers there"),
        ("http://WEBSITE", "something else answers there"),
        ("nonsense", "not host:port"),
        ("127.0.0.1:many", "many"),
    ],
)
def test_a_wrong_address_is_said_at_once_and_in_one_line(address, task, website, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 1.0)
    address = address.replace("FREE", free_address()).replace("WEBSITE", website)
    begin = time.monotonic()
    with pytest.raises(UsageError, match=task) as raised:
        list(run_on_ray(take_from(branches(1)), steps_of, ignore, address=address))
    assert time.monotonic() - begin < 60
    assert f"No Ray cluster at {address!r}" in str(raised.value)
    assert "host:port as `ray start --head` shows it" in str(raised.value)
    assert "\n" not in str(raised.value)


STUDY = """
import faulthandler, itertools, pathlib, signal, sys, time
from hf_elmix.interrupt import interruptible
from hf_elmix.study.executors.ray import run_on_ray
from hf_elmix.study.shared_prefixes import Branch, Outcome

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
faulthandler.dump_traceback_later(120, exit=True)  # to see where it hangs, if it does

def run(branch, progress):
    try:
        for step in itertools.count(1):
            progress(step, 10**6)
            time.sleep(0.1)
    finally:
        pathlib.Path(sys.argv[1], f"tidied{branch.seed}").touch()

def progress(branch, step, steps, logs=()):
    print("at work", flush=True)
    check()

branches = [Branch("toy", seed, ("ce",), ("ce",)) for seed in range(9)]
with interruptible() as check:  # as in a study: Python or Ray may drop a KeyboardInterrupt
    list(run_on_ray(lambda: branches.pop() if branches else None, run, progress, folder=sys.argv[1]))
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to find processes by their environment")
def test_ctrl_c_leaves_no_process_and_no_file_of_a_cluster_of_our_own(tmp_path):
    sign = uuid.uuid4().hex
    script = STUDY.replace("sys.argv[1]", repr(str(tmp_path)))
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t-") as short:
        driver = subprocess.Popen(
            [sys.executable, "-c", script],
            **{"env": {**os.environ, "ELMIX_TEST": sign, "RAY_TMPDIR": short}, "start_new_session": True},
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
        )
        assert driver.stdout is not None
        assert driver.stdout.readline() == "at work\n"
        assert len(processes_with(sign)) > 3, "Ray has started"
        os.killpg(driver.pid, signal.SIGINT)
        errors = driver.communicate()[1]
        assert errors.splitlines()[-1] == "KeyboardInterrupt", errors
        assert "ray" not in errors.split("Traceback")[0]
        assert processes_with(sign) == []
        assert list(Path(short).iterdir()) == []
    assert {path.name[:6] for path in tmp_path.iterdir()} == {"tidied"}


KILLED = """
import sys, time
from hf_elmix.cli.base import Command, run_program
from hf_elmix.study.executors.ray import run_on_ray
from hf_elmix.study.shared_prefixes import Branch

def run(branch, progress):
    progress(1, 2)
    time.sleep(10**6)

def study(args):
    "Train."
    branches = [Branch("toy", seed, ("ce",), ("ce",)) for seed in range(9)]
    progress = lambda *_: print("at work", flush=True)
    list(run_on_ray(lambda: branches.pop() if branches else None, run, progress, folder={folder!r}))

sys.exit(run_program("me", "", {{"study": Command(study, lambda parser: None)}}, ["study"]))
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to find processes by their environment")
@pytest.mark.parametrize("name", cluster.NEEDED)
def test_a_cluster_of_our_own_that_loses_a_process_ends_the_driver_in_one_line(tmp_path, name):
    sign = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t-") as short:
        driver = subprocess.Popen(
            [sys.executable, "-c", KILLED.format(folder=str(tmp_path))],
            **{"env": {**os.environ, "ELMIX_TEST": sign, "RAY_TMPDIR": short}, "start_new_session": True},
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
        )
        assert driver.stdout is not None
        assert driver.stdout.readline() == "at work\n"
        (lost,) = (child for child in psutil.Process(driver.pid).children() if child.name() == name)
        lost.kill()
        errors = driver.communicate(timeout=600)[1]
        assert driver.returncode == 1
        assert re.fullmatch(r"me: The head of the Ray cluster at \S.* is gone. Finished runs are kept; .*\n", errors)
        for _ in range(20):  # what is killed needs a moment to go
            if not processes_with(sign):
                break
            time.sleep(0.25)
        assert processes_with(sign) == []
        assert list(Path(short).iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def processes_with(sign: str) -> list[str]:
    """Commands of the processes that have inherited a sign in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if sign.encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_text())
        except OSError:  # it has just gone, or is another user's
            continue
    return found


# Files on a URL that other processes change.


def test_records_of_another_process_are_seen_on_a_url(bucket, record_of, toy):
    study = toy.study(None, *METHODS, seeds=(3,))
    store, keys = Store(f"{bucket}/seen"), list(study.runs())
    store.write(record_of(keys[0]))
    assert [record.key for record in store.records()] == keys[:1]
    assert store.read(keys[1]) is None
    path = f"bucket/seen/toy/{keys[1].method}/seed3/record.json"
    s3().pipe_file(path, json.dumps(record_of(keys[1]).to_dict()).encode())
    assert store.read(keys[1]) is not None
    assert {record.key for record in store.records()} == set(keys[:2])
    s3().rm(path)
    assert store.read(keys[1]) is None
    assert [record.key for record in store.records()] == keys[:1]


def test_a_checkpoint_of_another_process_is_found_on_a_url_and_a_damaged_one_is_not(bucket, tmp_path):
    store = Store(f"{bucket}/checkpoints")
    ours, theirs = Checkpoints(store.segments_of("toy", 1)), Checkpoints(store.segments_of("toy", 1))
    assert not ours.has("step5")
    with theirs.scratch() as scratch:
        (scratch / "sub").mkdir()
        (scratch / "weights").write_bytes(b"1" * 1000)
        (scratch / "sub" / "more").write_text("more")
        theirs.save("step5", scratch, {"costs": []})
    folder, notes = ours.find("step5", tmp_path / "a") or pytest.fail("there is one")
    assert notes == {"costs": []}
    assert ((folder / "weights").read_bytes(), (folder / "sub" / "more").read_text()) == (b"1" * 1000, "more")
    s3().pipe_file("bucket/checkpoints/.segments/toy/seed1/step5/weights", b"2" * 1000)
    assert ours.find("step5", tmp_path / "b") is None
    assert not theirs.has("step5")


def test_removing_the_checkpoints_of_one_seed_leaves_those_of_another(bucket, tmp_path):
    store = Store(f"{bucket}/seeds")
    for seed in (1, 10):
        s3().pipe_file(f"bucket/seeds/.segments/toy/seed{seed}/step5/weights", b"1")
    Checkpoints(store.segments_of("toy", 1)).clear()
    Checkpoints(store.segments_of("toy", 2)).clear()
    assert s3().find("bucket/seeds") == ["bucket/seeds/.segments/toy/seed10/step5/weights"]


def test_names_with_any_character_can_be_read_back_from_a_url(bucket, record_of):
    store = Store(f"{bucket}/names [1]")
    keys = [RunKey("a/b *?#%", "0-0.5@1e-4", 3), RunKey("é", "0,0.5", 3)]
    for key in keys:
        store.write(record_of(key))
    assert [record.key for record in store.records()] == keys


def test_a_store_that_cannot_be_reached_is_said_in_one_line(bucket, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UsageError, match=r"Cannot use 's3://bucket/runs': .*credentials") as raised:
        Store("s3://bucket/runs")
    assert "\n" not in str(raised.value)
    s3fs.S3FileSystem.clear_instance_cache()
