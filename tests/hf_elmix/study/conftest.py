"""A study to train in a moment: its rows, its model, and what a run leaves without training anything."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import EvalPrediction, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_elmix.study.spec import Method, RunKey, RunRecord, Study, Task, TrainerInputs
from hf_elmix.study.store import Store

WORDS, CLASSES = 30, 2


class ToyConfig(PretrainedConfig):
    model_type = "toy"


class ToyModel(PreTrainedModel):
    """The mean of a row's embedded words, between two dropouts."""

    config_class = ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.words, self.drop = nn.Embedding(WORDS, 8), nn.Dropout(0.2)
        self.hidden, self.head = nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> SequenceClassifierOutput:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mean = (self.words(input_ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        hidden = self.hidden(self.drop(mean)).tanh()
        return SequenceClassifierOutput(logits=self.head(self.drop(hidden)))


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


class Toy:
    """What the tests that train are made of: 20 rows in 5 batches, four times through."""

    arguments = {
        **{"num_train_epochs": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-2},
        "use_cpu": True,
    }
    accuracy = staticmethod(accuracy)

    @staticmethod
    def rows(count: int, seed: int, lengths: tuple[int, ...] = (6,)) -> Dataset:
        generator = torch.Generator().manual_seed(seed)
        sizes = [lengths[k % len(lengths)] for k in range(count)]
        ids = [torch.randint(1, WORDS, (size,), generator=generator).tolist() for size in sizes]
        labels = torch.randint(CLASSES, (count,), generator=generator).tolist()
        return Dataset.from_dict({"input_ids": ids, "labels": labels})

    @staticmethod
    def model(seed: int) -> ToyModel:
        torch.manual_seed(seed)
        return ToyModel(ToyConfig())

    @staticmethod
    def inputs(seed: int, train: int = 20, **changes: Any) -> TrainerInputs:
        trainer = {
            "model": Toy.model(seed),
            "train_dataset": Toy.rows(train, seed=1),
            "eval_dataset": Toy.rows(17, seed=2),
            "compute_metrics": accuracy,
        }
        return TrainerInputs({**trainer, **changes}, {"data_rows": {"train": train}})

    @staticmethod
    def study(
        make: Callable[[int], TrainerInputs] | None = None,
        *methods: str | Method,
        seeds: tuple[int, ...] = (3,),
        select: Any = "accuracy",
        **arguments: Any,
    ) -> Study:
        task = Task("toy", select, make or Toy.inputs, {"rows": "random"})
        own = tuple(method if isinstance(method, Method) else Method(method) for method in methods)
        return Study((task,), own or (Method("0-0.5"),), seeds, {**Toy.arguments, **arguments})


@pytest.fixture(scope="session", autouse=True)
def few_objects() -> Iterator[None]:
    """Each training starts with a garbage collection, which is slow where PyTorch is imported: here it skips that."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def toy() -> type[Toy]:
    return Toy


def make_record(
    key: RunKey, score: float = 0.5, *, settings: dict[str, Any] | None = None, **fields: Any
) -> RunRecord:
    """A record as a run leaves it; any field can be given."""
    accuracy = {"last": score, "best": score, "epochs": [score], "steps": [3]}
    values: dict[str, Any] = {
        "status": "done",
        "scores": {"accuracy": accuracy},
        "training": [{"step": 3, "epoch": 1.0, "loss": 0.7, "alpha": 1.0, "beta": 0.0}],
        "settings": {"select": {"metric": "accuracy", "epoch": "last"}} if settings is None else settings,
        "provenance": {"versions": {"python": "3.11"}, "device": "cpu"},
        "cost": {"seconds": 1.5, "steps_trained": 3, "steps_inherited": 0},
    }
    return RunRecord(key, **{**values, **fields})


@pytest.fixture(scope="session")
def record_of() -> Callable[..., RunRecord]:
    return make_record


@pytest.fixture
def importable(monkeypatch, pytestconfig) -> None:
    """Let processes that are started here import the functions of a test module."""
    monkeypatch.syspath_prepend(pytestconfig.rootpath)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")
