from __future__ import annotations

import os
import random
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import (
    Trainer,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
    default_data_collator,
    set_seed,
)

from hf_elmix import MixedLossTrainer, UsageError
from hf_elmix.predictions.callback import CohortCallback
from hf_elmix.predictions.records import FILE, Predictions, read_predictions, write_predictions

FIELDS = ("steps", "epochs", "labels", "p_true", "correct", "logits")


class Witness(TrainerCallback):
    """Passes all rows through the model in one plain batch at each evaluation, and keeps the logits."""

    def __init__(self, rows: Any) -> None:
        self.rows, self.logits = rows, []

    def on_evaluate(self, args, state, control, model, **kwargs):
        with torch.no_grad():
            self.logits.append(model(input_ids=torch.tensor(self.rows["input_ids"])).logits.double())


def check(seen: Predictions, logits: list[torch.Tensor], labels: list[int]) -> None:
    """Compare predictions with logits of a plain pass at each of their points."""
    assert seen.labels.tolist() == labels
    for point, expected in enumerate(logits):
        p_true = expected.softmax(-1)[range(len(labels)), labels]
        np.testing.assert_allclose(seen.p_true[point].astype(float), p_true, atol=6e-4)
        assert seen.correct[point].tolist() == (expected.argmax(-1) == torch.tensor(labels)).tolist()
    np.testing.assert_allclose(seen.logits, logits[-1], atol=1e-5)
    assert len(seen.steps) == len(logits)


def same(one: Predictions, other: Predictions) -> None:
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def written(trainer: Trainer) -> dict[str, Predictions]:
    return read_predictions(trainer.args.output_dir)


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions == prediction.label_ids).mean())}


@pytest.fixture
def recorded(kit):
    """Train with a callback, and a witness of its own rows: ``recorded(kind, at=...)``."""

    def train(kind: type[Trainer] = Trainer, at: Any = None, **given: Any) -> tuple[Trainer, list[torch.Tensor]]:
        witness = Witness(given.get("eval_dataset", kit.sequence_rows(20, seed=1)))
        given.setdefault("callbacks", [CohortCallback(at=at), witness])
        given.setdefault("eval_strategy", "epoch")
        trainer = kit.train(kind, per_device_eval_batch_size=8, **given)
        return trainer, witness.logits

    return train


class Loose(nn.Module):
    """A custom model whose `forward` takes no labels and returns what it is told to."""

    def __init__(self, give: str = "tuple", classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.give, self.words, self.head = give, nn.Embedding(60, 8), nn.Linear(8, classes)

    def forward(self, input_ids: torch.Tensor) -> Any:
        logits = self.head(self.words(input_ids).mean(1))
        return {"tuple": (logits,), "logits": logits, "dict": {"logits": logits, "hidden": logits[:, :1]}}[self.give]


LABEL_PATHS = {
    "stock": {},
    "mixed": {"kind": MixedLossTrainer},
    "smoothing": {"label_smoothing_factor": 0.1},
    "loss function": {
        "compute_loss_func": lambda out, labels, num_items_in_batch=None: nn.functional.cross_entropy(
            out.logits, labels
        )
    },
    "loss only": {"prediction_loss_only": True},
}


@pytest.mark.parametrize("given", LABEL_PATHS.values(), ids=LABEL_PATHS)
def test_recorded_predictions_are_those_of_a_plain_pass(kit, recorded, given):
    rows = kit.sequence_rows(20, seed=1)
    trainer, logits = recorded(**given)
    seen = written(trainer)[""]
    check(seen, logits, rows["labels"])
    assert seen.steps.tolist() == [5, 10]
    assert seen.epochs.tolist() == [1, 2]
    (callback,) = [one for one in trainer.callback_handler.callbacks if isinstance(one, CohortCallback)]
    same(seen, callback.predictions[""])


@pytest.mark.parametrize("kind", [Trainer, MixedLossTrainer])
def test_metrics_of_class_ids_and_a_collator_that_pads(kit, recorded, kind):
    """The callback does not depend on the input of metrics; columns may have any name that collators accept."""
    rows = kit.sequence_rows(20, seed=1).rename_column("labels", "label")
    trainer = kit.trainer(kind, eval_strategy="epoch", compute_metrics=accuracy, eval_dataset=rows)
    trainer.preprocess_logits_for_metrics = lambda logits, labels: logits.argmax(-1)
    witness = Witness(rows)
    trainer.add_callback(CohortCallback())
    trainer.add_callback(witness)
    trainer.train()
    check(written(trainer)[""], witness.logits, rows["label"])
    correct = written(trainer)[""].correct.mean(axis=1)
    assert correct.tolist() == [log["eval_accuracy"] for log in trainer.state.log_history if "eval_accuracy" in log]


@pytest.mark.parametrize("kind", [Trainer, MixedLossTrainer])
def test_nothing_else_changes(kit, recorded, difference, kind):
    """Dropout draws random numbers, whose state reading labels must not change."""

    class Drawing(Dataset):
        rows = kit.sequence_rows(20, seed=1)
        reads = 0

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, place):
            random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
            self.reads += 1
            return self.rows[place]

    sets = Drawing(), Drawing()
    given = {"eval_strategy": "steps", "eval_steps": 3, "per_device_eval_batch_size": 8, "kind": kind}
    plain = kit.train(eval_dataset=sets[0], **given)
    with_it = kit.train(eval_dataset=sets[1], callbacks=[CohortCallback()], **given)
    assert sets[1].reads - sets[0].reads == (20 if kind is MixedLossTrainer else 0)  # for labels, once in a training
    assert difference(plain, with_it) == 0
    same_logs = [
        [
            {k: v for k, v in log.items() if "_per_" not in k and "runtime" not in k}
            for log in trainer.state.log_history
        ]
        for trainer in (plain, with_it)
    ]
    assert same_logs[0] == same_logs[1]
    assert written(with_it)[""].labels.tolist() == Drawing.rows["labels"]


@pytest.mark.parametrize("give", ["tuple", "logits", "dict"])
def test_any_module_that_gives_logits(kit, give):
    rows = kit.sequence_rows(20, seed=1)
    trainer = kit.trainer(MixedLossTrainer, model=Loose(give), eval_strategy="epoch", callbacks=[CohortCallback()])
    trainer.train()
    outputs = trainer.model.eval()(torch.tensor(rows["input_ids"]))
    logits = outputs["logits"] if give == "dict" else outputs[0] if give == "tuple" else outputs
    np.testing.assert_allclose(written(trainer)[""].logits, logits.detach(), atol=1e-6)


def test_a_model_that_returns_tuples_and_half_precision(kit, recorded):
    rows = kit.sequence_rows(20, seed=1)
    model = kit.sequence_model(return_dict=False)
    trainer = kit.train(Trainer, model=model, eval_strategy="epoch", bf16=True, callbacks=[CohortCallback()])
    seen = written(trainer)[""]
    with torch.no_grad():
        logits = trainer.model.eval()(torch.tensor(rows["input_ids"]))[0]
    np.testing.assert_allclose(seen.logits, logits, atol=0.05)
    assert seen.labels.tolist() == rows["labels"]


def test_chosen_points_and_the_end(recorded):
    trainer, logits = recorded(at=[1.5, 3], num_train_epochs=5, eval_strategy="steps", eval_steps=4)
    seen = written(trainer)[""]
    assert seen.steps.tolist() == [8, 16, 25]  # 5 steps per epoch; 24 was the last point until 25
    check(seen, [logits[1], logits[3], logits[-1]], seen.labels.tolist())


def test_the_transition_table(kit):
    """Counted again, row by row."""
    callback = CohortCallback()
    kit.train(Trainer, callbacks=[callback], eval_strategy="epoch", num_train_epochs=3)
    seen = callback.predictions[""]
    p_true, correct, end = seen.p_true[0].tolist(), seen.correct[0].tolist(), seen.correct[-1].tolist()
    callback.threshold = sorted(p for p, good in zip(p_true, correct, strict=True) if not good)[3]
    counts = dict.fromkeys(("correct", "correct_end", "near", "near_end", "far", "far_end"), 0)
    for p, good, later in zip(p_true, correct, end, strict=True):
        name = "correct" if good else "near" if p > callback.threshold else "far"
        counts[name] += 1
        counts[f"{name}_end"] += later
    first, _ = callback.transitions().to_dict("records")
    assert first == {"epoch": 1.0, **counts}
    assert min(counts["correct"], counts["near"], counts["far"]) > 0
    with pytest.raises(UsageError, match=r"Expected the name of a recorded evaluation set \(''\), but got 'other'"):
        callback.transitions("other")


def test_two_sets_by_name(kit, recorded):
    sets = {"matched": kit.sequence_rows(20, seed=1), "mis_matched": kit.sequence_rows(13, seed=2)}
    trainer = kit.train(Trainer, eval_strategy="epoch", eval_dataset=sets, callbacks=[CohortCallback()])
    assert list(written(trainer)) == ["matched", "mis_matched"]
    for name, rows in sets.items():
        with torch.no_grad():
            logits = trainer.model.eval()(torch.tensor(rows["input_ids"])).logits
        np.testing.assert_allclose(written(trainer)[name].logits, logits, atol=1e-5)
        assert written(trainer)[name].labels.tolist() == rows["labels"]


def test_other_forward_passes_are_not_recorded(kit):
    """Not even during an evaluation."""
    rows = kit.sequence_rows(20, seed=1)

    class Stray(TrainerCallback):
        def on_prediction_step(self, args, state, control, model, **kwargs):
            model(input_ids=torch.full((3, 4), 7))

        def on_step_end(self, args, state, control, model, **kwargs):
            model.eval()(input_ids=torch.full((3, 4), 7))

    trainer = kit.trainer(Trainer, eval_strategy="epoch", callbacks=[CohortCallback(), Stray()])
    trainer.train()
    before = written(trainer)[""]
    trainer.evaluate()
    same(before, written(trainer)[""])  # the same step, and the same weights
    loader = trainer.get_eval_dataloader()
    trainer.get_eval_dataloader = trainer.get_test_dataloader = lambda *given: loader
    trainer.predict(trainer.eval_dataset)
    with torch.no_grad():
        trainer.model.classifier.bias += 1
        logits = trainer.model.eval()(torch.tensor(rows["input_ids"])).logits
    trainer.evaluate()
    np.testing.assert_allclose(written(trainer)[""].logits, logits, atol=1e-5)


def test_another_model_that_is_evaluated_is_not_recorded(kit):
    other = kit.sequence_model().eval()

    class Elsewhere(Trainer):
        def prediction_step(self, model, *given, **named):
            return super().prediction_step(other, *given, **named)

        def training_step(self, model, inputs, *given):
            with torch.no_grad():
                model.eval()(**inputs)  # seen, but no evaluation
            return super().training_step(model, inputs, *given)

    with pytest.warns(UserWarning, match="of two classes or more .*, but got nothing"):
        trainer = kit.train(Elsewhere, eval_strategy="epoch", callbacks=[CohortCallback()])
    assert not Path(trainer.args.output_dir, FILE).exists()


@pytest.mark.parametrize("again", [False, True], ids=["a new loader", "the same loader"])
def test_an_interrupted_evaluation_is_discarded(kit, again):
    class Once(TrainerCallback):
        def on_prediction_step(self, *args, **kwargs):
            if trainer.is_in_train is False and not self.__dict__.setdefault("broke", False):
                self.broke = True
                raise KeyboardInterrupt

    trainer = kit.trainer(Trainer, eval_strategy="epoch", callbacks=[CohortCallback(), Once()])
    trainer.train()
    before, loader = written(trainer)[""], trainer.get_eval_dataloader()
    if again:
        trainer.get_eval_dataloader = lambda *given: loader
    with pytest.raises(KeyboardInterrupt):
        trainer.evaluate()
    with torch.no_grad():
        trainer.model.classifier.bias += 1
    with pytest.warns(UserWarning, match="3 batches of the evaluation, but recorded 4") if again else nullcontext():
        trainer.evaluate()
    if again:
        same(before, written(trainer)[""])
        trainer.evaluate()
    np.testing.assert_allclose(written(trainer)[""].logits, before.logits + 1, atol=1e-5)


def test_the_last_point_may_be_an_evaluation_after_training(kit):
    """Training without evaluations warns at once. Before training, nothing is recorded."""
    trainer = kit.trainer(Trainer, callbacks=[CohortCallback(at=[1])])
    write_predictions(Path(trainer.args.output_dir, FILE), {"": some([5])})
    trainer.evaluate()
    assert written(trainer)[""].steps.tolist() == [5]
    with pytest.warns(UserWarning, match="There is no evaluation during training. Set eval_strategy='epoch'"):
        trainer.train()
    trainer.evaluate()
    assert written(trainer)[""].steps.tolist() == [10]


def test_epochs_without_an_evaluation(kit):
    given = {"eval_strategy": "steps", "eval_steps": 4, "max_steps": 8}
    with pytest.warns(UserWarning, match="CohortCallback") as caught:
        kit.train(Trainer, callbacks=[CohortCallback(at=[1, 2, 7])], **given)
    early, late = (str(one.message) for one in caught if "CohortCallback" in str(one.message))
    assert early == "CohortCallback: Training ends after 2 epochs, before epoch 7."
    assert late.startswith(
        "CohortCallback: There was no evaluation at or after epoch 2, 7; the last one was at 1.6. Set"
    )


def some(steps: list[int], rows: int = 20) -> Predictions:
    shape = len(steps), rows
    labels, epochs = np.arange(rows) % 3, np.array(steps) / 5
    correct = np.broadcast_to(labels == 0, shape)  # of equal logits, the first
    return Predictions(np.array(steps), epochs, labels, np.full(shape, 1 / 3), correct, np.zeros((rows, 3)))


def test_resumed_training_keeps_earlier_points(kit):
    given = {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 3}
    whole = kit.train(callbacks=[CohortCallback()], **given)
    expected = written(whole)[""]
    assert expected.steps.tolist() == [5, 10, 15]
    checkpoint = f"{whole.args.output_dir}/checkpoint-5"
    again = {**given, "output_dir": whole.args.output_dir, "resume_from_checkpoint": checkpoint}
    kit.train(callbacks=[CohortCallback()], model=kit.sequence_model(), **again)
    same(written(whole)[""], expected)
    first = CohortCallback()
    kit.train(callbacks=[first], model=kit.sequence_model(), **{**again, "num_train_epochs": 1})
    assert first.predictions[""].steps.tolist() == [5]
    assert np.isnan(first.predictions[""].logits).all()  # the file has those of step 15


def test_a_new_training_discards_earlier_points(kit):
    trainer = kit.train(callbacks=[CohortCallback()], eval_strategy="steps", eval_steps=3, num_train_epochs=1)
    assert written(trainer)[""].steps.tolist() == [3, 5]
    trainer.args.eval_steps = 4
    trainer.train()
    assert written(trainer)[""].steps.tolist() == [4, 5]


def test_a_file_that_cannot_be_read_or_written(kit, tmp_path):
    given = {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 2}
    whole = kit.train(callbacks=[CohortCallback()], **given)
    place = Path(whole.args.output_dir, FILE)
    place.write_bytes(b"text")
    again = {**given, "output_dir": whole.args.output_dir, "resume_from_checkpoint": f"{place.parent}/checkpoint-5"}
    with pytest.warns(UserWarning, match="No predictions before step 5 are available. Expected .* predictions"):
        kit.train(callbacks=[CohortCallback()], **again)
    assert written(whole)[""].steps.tolist() == [10]
    place.unlink()
    place.mkdir()
    given = {"output_dir": whole.args.output_dir, "num_train_epochs": 1}
    with pytest.warns(UserWarning, match=f"Cannot record the evaluation: .*{FILE}"):
        kit.train(callbacks=[CohortCallback()], eval_strategy="epoch", **given)


def test_rows_in_another_order_are_not_recorded(kit):
    given = {"eval_strategy": "epoch", "train_sampling_strategy": "group_by_length"}
    with pytest.warns(UserWarning, match="they come from LengthGroupedSampler. .* train_sampling_strategy"):
        trainer = kit.train(callbacks=[CohortCallback(at=[1])], **given)
    assert not Path(trainer.args.output_dir, FILE).exists()


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_custom_loader(kit, shuffle):
    rows = kit.sequence_rows(20, seed=1)
    trainer = kit.trainer(callbacks=[CohortCallback()], eval_strategy="epoch")
    loader = DataLoader(rows, 8, shuffle=shuffle, collate_fn=default_data_collator)
    trainer.get_eval_dataloader = lambda *given: loader
    if shuffle:
        with pytest.warns(UserWarning, match="in the order of the dataset, but they come from RandomSampler"):
            trainer.train()
        assert not Path(trainer.args.output_dir, FILE).exists()
    else:
        trainer.train()
        assert written(trainer)[""].labels.tolist() == rows["labels"]


class Pictures(Dataset):
    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(count)
        self.pixels = torch.randn(count, 3, 16, 16, generator=generator)
        self.labels = torch.randint(3, (count,), generator=generator).tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {"pixel_values": self.pixels[place], "labels": self.labels[place]}


def test_pictures(kit):
    set_seed(0)
    sizes = {"image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = ViTForImageClassification(ViTConfig(**sizes, intermediate_size=16, num_labels=3))
    given = {"model": model, "train_dataset": Pictures(16), "eval_dataset": Pictures(21)}
    trainer = kit.train(callbacks=[CohortCallback()], eval_strategy="epoch", **given)
    with torch.no_grad():
        logits = trainer.model.eval()(given["eval_dataset"].pixels).logits
    assert written(trainer)[""].labels.tolist() == given["eval_dataset"].labels
    np.testing.assert_allclose(written(trainer)[""].logits, logits, atol=1e-5)


def test_streams_and_dropped_rows_are_not_recorded(kit):
    stream = kit.sequence_rows(20, seed=1).to_iterable_dataset()
    with pytest.warns(UserWarning, match="they come from a stream"):
        kit.train(callbacks=[CohortCallback()], eval_strategy="epoch", eval_dataset=stream)
    given = {"dataloader_drop_last": True, "per_device_eval_batch_size": 8}
    with pytest.warns(
        UserWarning, match="each of the 20 evaluation rows, but recorded 16. Do not set dataloader_drop_last"
    ):
        trainer = kit.train(callbacks=[CohortCallback()], eval_strategy="epoch", **given)
    assert not Path(trainer.args.output_dir, FILE).exists()


def test_other_rows_under_the_same_name(kit):
    trainer = kit.train(callbacks=[CohortCallback()], eval_strategy="epoch")
    before = written(trainer)[""]
    with pytest.warns(UserWarning, match="the same 20 rows as before, but got 7 others. .* another metric_key_prefix"):
        trainer.evaluate(kit.sequence_rows(7))
    trainer.evaluate(kit.sequence_rows(7), metric_key_prefix="test")
    same(written(trainer)[""], before)
    assert written(trainer)["test"].labels.tolist() == kit.sequence_rows(7)["labels"]


def test_a_head_without_classes_is_not_recorded(kit):
    with pytest.warns(UserWarning, match=r"but got logits of shape \(20, 10, 3\)|of shape \(8, 10, 3\)"):
        kit.train(callbacks=[CohortCallback()], eval_strategy="epoch", **kit.tokens())


@pytest.mark.parametrize("kind", [Trainer, MixedLossTrainer])
def test_rows_without_a_label_are_not_recorded(kit, kind):
    rows = kit.sequence_rows(20).map(lambda row, place: {"labels": -100 if place == 4 else 1}, with_indices=True)
    with pytest.warns(UserWarning, match="class ids from 0 to 2, but got -100"):
        kit.train(kind, callbacks=[CohortCallback()], eval_strategy="epoch", eval_dataset=rows)


def test_labels_that_only_the_collator_makes(kit):
    """The collator turns names of classes into class ids."""
    names = ["no", "maybe", "yes"]
    rows = kit.sequence_rows(70, seed=1)
    named = rows.map(lambda row: {"input_ids": row["input_ids"], "answer": names[row["labels"]]})
    named = named.remove_columns("labels")

    def collate(rows):
        return default_data_collator(
            [{"input_ids": row["input_ids"], "labels": names.index(row["answer"])} for row in rows]
        )

    given = {"train_dataset": named, "eval_dataset": named, "data_collator": collate, "remove_unused_columns": False}
    trainer = kit.train(MixedLossTrainer, callbacks=[CohortCallback()], eval_strategy="epoch", **given)
    assert written(trainer)[""].labels.tolist() == rows["labels"]


def test_epochs_may_come_from_an_array():
    assert CohortCallback(at=np.arange(1, 4)).at == (1, 2, 3)


@pytest.mark.parametrize("at", [70, [-1], ["1"], "70", [True], [float("nan")], [float("inf")]])
def test_invalid_epochs(at):
    with pytest.raises(UsageError, match=r"Expected epochs of 0 or more, such as at=\[70\]"):
        CohortCallback(at=at)


@pytest.mark.parametrize("threshold", [2, 0, 1.0, -0.1, "0.2", True, float("nan")])
def test_invalid_thresholds(threshold):
    with pytest.raises(UsageError, match="Expected a threshold between 0 and 1, such as 0.2"):
        CohortCallback(threshold=threshold)


def test_a_wrapped_model(kit):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(kit.sequence_model(), peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    trainer = kit.train(MixedLossTrainer, model=model, callbacks=[CohortCallback()], eval_strategy="epoch")
    with torch.no_grad():
        logits = trainer.model.eval()(torch.tensor(kit.sequence_rows(20, seed=1)["input_ids"])).logits
    np.testing.assert_allclose(written(trainer)[""].logits, logits, atol=1e-5)


def test_each_model_of_a_search(kit):
    """`model_init` makes a new model when training begins."""
    trainer = kit.trainer(Trainer, eval_strategy="epoch", callbacks=[CohortCallback()])
    trainer.model_init = lambda: kit.sequence_model()
    trainer.train()
    first = written(trainer)[""]
    trainer.train()
    same(written(trainer)[""], first)


@pytest.mark.slow
def test_a_compiled_model(kit, difference):
    given = {"eval_strategy": "epoch", "torch_compile": True, "torch_compile_backend": "eager"}
    plain = kit.train(model=kit.sequence_model(), **given)
    trainer = kit.train(model=kit.sequence_model(), callbacks=[CohortCallback()], **given)
    assert difference(plain, trainer) == 0
    rows = kit.sequence_rows(20, seed=1)
    with torch.no_grad():
        logits = trainer.model.eval()(torch.tensor(rows["input_ids"])).logits
    seen = written(trainer)[""]
    np.testing.assert_allclose(seen.logits, logits, atol=1e-4)
    assert seen.steps.tolist() == [5, 10]
    assert (seen.p_true[0] != seen.p_true[1]).any()


DDP = """
import os, sys, torch
sys.path.insert(0, sys.argv[1])
from conftest import Kit
from pathlib import Path
from transformers import Trainer
from hf_elmix import MixedLossTrainer
from hf_elmix.predictions.callback import CohortCallback

kit = Kit(Path(sys.argv[2]))
sets = {"odd": kit.sequence_rows(19, seed=1), "few": kit.sequence_rows(3, seed=2)}
for name, kind, more in (("stock", Trainer, {}), ("mixed", MixedLossTrainer, {}),
        ("dispatched", Trainer, {"dispatch_batches": True}), ("split", Trainer, {"split_batches": True})):
    trainer = kit.train(kind, model=kit.sequence_model(), train_dataset=kit.sequence_rows(24), eval_strategy="epoch",
        eval_dataset=sets, per_device_eval_batch_size=4, accelerator_config=more, ddp_backend="gloo",
        output_dir=Path(sys.argv[2], name), callbacks=[CohortCallback()])
    if trainer.is_world_process_zero():
        with torch.no_grad():
            torch.save({part: trainer.model.eval()(torch.tensor(rows["input_ids"])).logits for part, rows
                in sets.items()}, Path(sys.argv[2], name, "expected.pt"))
os._exit(0)  # PyTorch's threads sometimes abort a process while Python shuts down
"""


@pytest.mark.slow
def test_two_processes(kit, tmp_path):
    """Processes take turns, and the first rows pad the last batches."""
    script = tmp_path / "train.py"
    script.write_text(DDP)
    launch = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command = [sys.executable, *launch, str(script), str(Path(__file__).parents[1]), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    labels = {"odd": kit.sequence_rows(19, seed=1)["labels"], "few": kit.sequence_rows(3, seed=2)["labels"]}
    for name in ("stock", "mixed", "dispatched", "split"):
        seen, logits = read_predictions(tmp_path / name), torch.load(tmp_path / name / "expected.pt")
        assert {part: one.labels.tolist() for part, one in seen.items()} == labels
        for part, one in seen.items():
            assert len(one.steps) == 2
            np.testing.assert_allclose(one.logits, logits[part], atol=1e-5)
