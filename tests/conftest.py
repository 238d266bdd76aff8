"""Fixtures shared by all tests: the generated GLUE, GLUE-like folders, folders of runs, a local Hub, real rows."""

# ruff: noqa: E402
from __future__ import annotations

import gc
import os

# Libraries read these when they are imported. No test may reach a network; children that need the local Hub set their
# own endpoint.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads do not take time from other processes
if "PYTEST_XDIST_WORKER" in os.environ:  # one process for each processor: more threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset
from huggingface_hub import constants

from glue_runs.__main__ import main
from glue_runs.pocket.dataset import write_dataset
from glue_runs.pocket.encoder import encoder_path
from glue_runs.tasks import TASKS
from hf_elmix.losses.registry import parse_loss
from hf_elmix.study.spec import RunKey, RunRecord
from hf_elmix.study.store import Store

sys.path.append(str(Path(__file__).parent))  # where the local Hub is


def pytest_collection_finish() -> None:
    """Leave what has been imported out of garbage collection, which the Trainer runs after every training."""
    gc.freeze()


HUB = Path(os.environ.get("HF_ELMIX_HUB", Path(__file__).parents[2] / "shared" / "hub"))


@pytest.fixture(scope="session")
def hub() -> Path:
    """Folder with real GLUE rows, laid out as the local Hub has them."""
    if not (HUB / "datasets" / "nyu-mll" / "glue").is_dir():
        pytest.skip(f"no real GLUE rows at {HUB}; set HF_ELMIX_HUB to a folder that has them")
    return HUB


TOKEN = "hf_theTokenThatMayBeNowhere"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def good_rows(task: str, count: int = 12) -> list[dict[str, Any]]:
    """Rows that can be trained on."""
    columns, labels = TASKS[task].columns, len(TASKS[task].labels)
    words = ["the dog sleeps", "a doctor saw the dog", "five people loved music"]
    return [
        {**{column: words[(row + k) % 3] for k, column in enumerate(columns)}, "label": row % labels, "idx": row}
        for row in range(count)
    ]


def write_glue(folder: Path, task: str, **splits: list[dict[str, Any]] | Dataset) -> str:
    """A folder like the Hub's dataset with one task; returns its name for `load_dataset`."""
    if not splits:
        splits = {split: good_rows(task) for split in ("train", *TASKS[task].splits)}
    lines = ["---", "configs:", f"- config_name: {task}", "  data_files:"]
    for split, rows in splits.items():
        path = folder / task / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        (rows if isinstance(rows, Dataset) else Dataset.from_list(rows)).to_parquet(path)
        lines += [f"  - split: {split}", f"    path: {task}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return str(folder)


@pytest.fixture(scope="session")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The generated rows."""
    folder = tmp_path_factory.mktemp("pocket")
    write_dataset(folder)
    return str(folder)


@pytest.fixture(scope="session")
def encoder() -> str:
    """The small encoder of the package."""
    return str(encoder_path())


@pytest.fixture(name="good_rows")
def good_rows_fixture():
    return good_rows


@pytest.fixture
def glue(tmp_path):
    """Writes a GLUE-like folder: ``glue("cola", train=[...], validation=[...])``."""
    return lambda task, **splits: write_glue(tmp_path / "glue", task, **splits)


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Hub of its own for a test; the client in this process talks to it over HTTP, and waits for nothing."""
    from hub_server import LocalHub

    with LocalHub([tmp_path / "elsewhere", tmp_path / "hub"], TOKEN) as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        changes = {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "ENDPOINT": hub.url}
        changes |= {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_TOKEN_PATH": str(tmp_path / "login")}
        changes["HUGGINGFACE_CO_URL_TEMPLATE"] = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for name, value in changes.items():
            monkeypatch.setattr(constants, name, value)
        at_once = SimpleNamespace(sleep=lambda seconds: None)
        for module in ("hf_elmix.hub.client", "huggingface_hub.utils._http"):
            monkeypatch.setattr(f"{module}.time", at_once)
        yield hub


@pytest.fixture(scope="session")
def kept_run(tmp_path_factory: pytest.TempPathFactory, encoder: str) -> Path:
    """The folder of a run of the study with its model: MNLI, 12 training rows, of which the last 6 are evaluated."""
    folder = tmp_path_factory.mktemp("kept")
    rows = good_rows("mnli")
    data = write_glue(folder / "glue", "mnli", train=rows, validation_matched=rows[6:], validation_mismatched=rows[:3])
    words = ["study", "--output_dir", str(folder / "runs"), "--dataset_name", data, "--model_name_or_path", encoder]
    words += ["--tasks", "mnli", "--seeds", "0", "--mixings", "ce", "--keep", "models", "--max_seq_length", "7"]
    assert main([*words, "--num_train_epochs", "1", "--per_device_train_batch_size", "4", "--use_cpu"]) == 0
    return folder / "runs" / "mnli" / "ce" / "seed0"


def make_run(
    task: str = "mrpc", mixing: str = "0-0.5", seed: int = 0, score: float | None = 0.75, **fields: Any
) -> RunRecord:
    """A record as a run of the study leaves it."""
    names = ("matched_accuracy", "mismatched_accuracy") if task == "mnli" else TASKS[task].metrics
    values: dict[str, Any] = {
        "status": "done",
        "scores": {name: {"last": score, "best": score, "epochs": [score], "steps": [3]} for name in (*names, "loss")},
        "training": [{"step": 3, "epoch": 1.0, "loss_ce": 0.7, "loss_el": 0.5, "alpha": 1.0, "beta": 1.0}],
        "settings": {
            "text": TASKS[task].to_settings(),
            **{
                "loss": str(parse_loss(mixing)),
                "select": {"metric": names[0], "epoch": "last"},
                "model": "google-bert/bert-base-uncased",
                "weights": "ab12",
            },
            **{"dataset": "nyu-mll/glue", "max_length": 64, "padding": "free", "max_train_samples": None},
            "arguments": {"learning_rate": 2e-5, "num_train_epochs": 6},
        },
        "provenance": {
            **{"versions": {"python": "3.11", "torch": "2.13.0"}, "commit": "c0ffee", "dirty": False},
            **{"device": "cpu x86_64", "data_rows": {"train": 3668, "validation": 408}},
            **{"model_revision": COMMIT, "data_revision": COMMIT},
        },
        "cost": {"seconds": 1.5, "steps_trained": 3, "steps_inherited": 0},
    }
    return RunRecord(RunKey(task, mixing, seed), **{**values, **fields})


@pytest.fixture(scope="session")
def run_of() -> Callable[..., RunRecord]:
    return make_run


@pytest.fixture
def runs(tmp_path: Path) -> Callable[..., Store]:
    """A folder of runs; those of which it is said have a model beside them: ``runs((record, True), ...)``."""

    def make(*records: tuple[RunRecord, bool]) -> Store:
        store = Store(tmp_path / "runs")
        for record, kept in records:
            store.write(record)
            if kept:
                folder = Path(store.folder_of(record.key), "model")
                folder.mkdir()
                write_model(folder, str(record.key))
        return store

    return make


def write_model(folder: Path, weights: str = "weights") -> None:
    """What a training may leave: files of a model, and those that are nobody's business."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes(weights.encode())
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "scheduler.pkl", "notes.txt", ".env"):
        (folder / name).write_text("private")
    shutil.copytree(folder, folder / "checkpoint-3")


@pytest.fixture(name="write_model")
def write_model_fixture() -> Callable[..., None]:
    return write_model


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser, or a skip that says what is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("needs chromium and chromedriver (Debian: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()
