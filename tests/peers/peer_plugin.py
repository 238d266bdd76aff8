"""A pytest plugin that runs another library's tests on the classes of this one, and offline.

It is loaded with ``-p peer_plugin`` and reads these variables: `PEER_TRAINER` (``stock``, or ``ours`` for
``mixing="ce"``), `PEER_RESULTS` (a file that gets a line of JSON for each test) and `PEER_FOLDER` (for data sets).
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import tiny_hub
import torch
import torch.nn.functional as F
import transformers
from datasets import load_dataset
from torch import nn
from transformers import Trainer

from hf_elmix import MixedLossMixin, MixedLossTrainer, mixed_loss_func

RESULTS, FOLDER = Path(os.environ["PEER_RESULTS"]), Path(os.environ["PEER_FOLDER"])


def pytest_configure(config: pytest.Config) -> None:
    """Let tests of another version import names that are no more: only tests that use them fail."""
    for file in {Path("tests/testing_utils.py"), *(Path(part.split("::")[0]) for part in config.args)}:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8") if file.exists() else "")):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                with contextlib.suppress(ImportError):
                    module = importlib.import_module(node.module)
                    for name in (part.name for part in node.names if not hasattr(module, part.name)):
                        setattr(module, name, type(name, (), {}))


@functools.wraps(datasets.load_dataset)
def load_offline(path: str, name: str | None = None, *args: Any, **kwargs: Any) -> Any:
    """`datasets.load_dataset`, with stand-ins for data sets on the Hub."""
    files = tiny_hub.write_rows(path, name, FOLDER)
    if files is None:
        return load_dataset(path, name, *args, **kwargs)
    return load_dataset("json", data_files=files, **{k: v for k, v in kwargs.items() if k in ("split", "streaming")})


def exchange() -> None:
    """Replace the Trainers of transformers and TRL, and the cross entropy of cross-encoders."""
    with contextlib.suppress(ImportError):  # before their base is replaced
        import trl

        from hf_elmix.integrations.trl import MixedSFTTrainer

        trl.SFTTrainer = with_cross_entropy(MixedSFTTrainer, "SFTTrainer")
    with contextlib.suppress(ImportError):
        from sentence_transformers import cross_encoder

        cross_encoder.CrossEncoderTrainer = with_classes(cross_encoder.CrossEncoderTrainer)

    class Seq2Seq(MixedLossMixin, transformers.Seq2SeqTrainer):
        pass

    transformers.Trainer = with_cross_entropy(MixedLossTrainer, "Trainer")
    transformers.Seq2SeqTrainer = with_cross_entropy(Seq2Seq, "Seq2SeqTrainer")


def with_cross_entropy(kind: type, name: str) -> type:
    def start(self: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, *args, **{"mixing": "ce", **kwargs})

    return type(name, (kind,), {"__init__": functools.wraps(kind.__init__)(start)})


def with_classes(kind: type) -> type:
    """A CrossEncoderTrainer whose cross entropies are ours."""
    from sentence_transformers.cross_encoder.losses import CrossEntropyLoss

    from hf_elmix.integrations.sentence_transformers import MixedCrossEncoderLoss

    def prepare_loss(self: Any, loss: Any, model: Any) -> nn.Module:
        prepared = kind.prepare_loss(self, loss, model)
        if not isinstance(prepared, CrossEntropyLoss):
            return prepared
        function = mixed_loss_func("ce")
        self.add_callback(function)
        prepared.ce_loss = MixedCrossEncoderLoss(model, function).ce_loss  # what is ours of it
        return prepared

    return type(kind.__name__, (kind,), {"prepare_loss": prepare_loss})


def predict_numbers(self: Trainer, *args: Any, **kwargs: Any) -> Any:
    """`Trainer.predict`; of a model made a classifier, the logits that are not 0 (see `as_classifier`)."""
    output = predict(self, *args, **kwargs)
    if not type(self.model).__name__.startswith("Regression"):
        return output
    several = isinstance(output.predictions, tuple)
    numbers = [part[..., 1] for part in (output.predictions if several else (output.predictions,))]
    return output._replace(predictions=tuple(numbers) if several else numbers[0])


# Now, before any file of the tests is imported.
predict, Trainer.predict = Trainer.predict, predict_numbers
datasets.load_dataset = load_offline
with contextlib.suppress(ImportError):
    from sentence_transformers.cross_encoder import losses

    class OfScores(losses.CrossEntropyLoss):
        """Cross entropy of scores made classes, as the stand-in for a cross-encoder has two."""

        def forward(self, inputs: Any, labels: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            return super().forward(inputs, labels.round().long(), **kwargs)

    losses.BinaryCrossEntropyLoss = OfScores
if os.environ["PEER_TRAINER"] == "ours":
    exchange()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make classifiers of the regression models with which transformers tests its Trainer."""
    modules = {inspect.getmodule(part) for item in items if (part := getattr(item, "function", None)) is not None}
    places = {name: value for module in modules if module for name, value in vars(module).items()}
    for name, kind in places.items():
        if not inspect.isclass(kind):
            continue
        if issubclass(kind, nn.Module) and name.startswith("Regression"):
            kind.forward = as_classifier(kind.forward)
        elif name in ("RegressionDataset", "DynamicShapesDataset"):
            kind.__init__ = with_class_ids(kind.__init__)
        elif name in ("AlmostAccuracy", "AlmostAccuracyBatched"):
            kind.__call__ = of_numbers(kind.__call__)
        elif hasattr(kind, "fake_compile"):  # PEFT's own switch: minutes of compilation say nothing of a loss
            kind.fake_compile = True


def as_classifier(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Of a model that predicts a number y, the one with the logits 0 and y, and their cross entropy."""

    @functools.wraps(forward)
    def classify(self: nn.Module, input_x: torch.Tensor, labels: Any = None, **kwargs: Any) -> Any:
        output = forward(self, input_x, **kwargs)
        parts = list(output.values()) if isinstance(output, dict) else list(output)
        parts = [torch.stack((torch.zeros_like(part), part), -1) for part in parts]
        loss = [] if labels is None else [F.cross_entropy(parts[0].flatten(0, -2), labels.long().flatten())]
        if isinstance(output, dict):
            return {**dict(zip(output, parts, strict=True)), **dict(zip(["loss"], loss, strict=False))}
        return (*loss, *parts)

    return classify


def with_class_ids(start: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(start)
    def make(self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        of = lambda labels: (labels > labels.mean()).astype(int)  # noqa: E731
        self.ys = [of(part) for part in self.ys]

    return make


def of_numbers(metric: Callable[..., Any]) -> Callable[..., Any]:
    """A metric of numbers, given logits of two classes."""

    @functools.wraps(metric)
    def measure(self: Any, predictions: Any, *args: Any, **kwargs: Any) -> Any:
        logits, labels = predictions
        logits = logits[0] if isinstance(logits, tuple) else logits
        return metric(self, (logits[..., 1], labels), *args, **kwargs)

    return measure


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note the outcome of a test."""
    if report.when == "call" or report.outcome != "passed":
        outcome = "error" if report.when != "call" and report.failed else report.outcome
        crash = getattr(report.longrepr, "reprcrash", None)
        line = {
            "test": report.nodeid,
            "outcome": outcome,
            "why": str(getattr(crash, "message", report.longrepr or "")),
        }
        with RESULTS.open("a") as file:
            file.write(json.dumps(line) + "\n")


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """The same random numbers in both runs."""
    transformers.set_seed(0)
