from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
from transformers import BertForSequenceClassification, Trainer, TrainerCallback

import hf_elmix
from hf_elmix.comparison.trainers import _in_notebook, _inputs
from hf_elmix.errors import UsageError
from hf_elmix.study.spec import Method
from hf_elmix.study.store import Store
from hf_elmix.training.trainer import MixedLossTrainer


def accuracy(output):
    return {"accuracy": float((output.predictions.argmax(-1) == output.label_ids).mean())}


@pytest.fixture
def trainer_of(kit):
    def make(seed: int, kind: type[Trainer] = Trainer, **given):
        # Without a seed of its own: the comparison must set it, or each method would begin with other weights.
        model = BertForSequenceClassification(kit.config())
        sets = {"train_dataset": kit.sequence_rows(8), "eval_dataset": kit.sequence_rows(12, seed=1)}
        return kit.trainer(
            kind, **{"model": model, "compute_metrics": accuracy, "num_train_epochs": 1, **sets, **given}
        )

    return make


def test_any_function_that_builds_a_trainer(trainer_of, tmp_path, capsys):
    pin = Method("pin", {"dataloader_pin_memory": False}, "ce")  # trained like ce, so it is equal bit for bit
    sets = {"test": trainer_of(0).train_dataset, "first": trainer_of(0).eval_dataset}
    make = lambda seed: trainer_of(seed, eval_dataset=sets)  # noqa: E731
    found = hf_elmix.compare(make, ["el", pin], max_seeds=3, output_dir=tmp_path / "study", name="toy")
    assert set(found.verdict) == {"el", "pin"}
    assert (found.to_frame().query("method == 'pin'")["difference"] == 0).all()
    assert found.test_df["seeds"].to_list() == [3, 3, 3]
    assert "Seed 3 of at most 3: EL " in capsys.readouterr().out
    records = list(Store(tmp_path / "study").records())
    assert len(records) == 9
    assert {record.select.scored_metric for record in records} == {"first_accuracy"}
    arguments = records[0].settings["arguments"]
    assert {**arguments, "dataloader_pin_memory": False} == {
        **{"num_train_epochs": 1, "learning_rate": 1e-3, "use_cpu": True},
        "dataloader_pin_memory": False,
    }


def test_what_the_study_would_lose_is_refused(trainer_of, kit, tmp_path):
    class Mine(Trainer):
        pass

    def refused(message, **given):
        with pytest.raises(UsageError, match=message):
            hf_elmix.compare(lambda seed: trainer_of(seed, **given), ["el"], output_dir=tmp_path / "study")

    refused("Expected make_trainer to return a Trainer or MixedLossTrainer, but got Mine", kind=Mine)
    refused("without compute_loss_func", compute_loss_func=lambda *_, **__: 0)
    refused("Expected a Trainer with compute_metrics", compute_metrics=None)
    refused("an evaluation set beside 'test'", eval_dataset={"test": kit.sequence_rows(8)})
    with pytest.raises(UsageError, match="Expected a duration"):
        hf_elmix.compare(trainer_of, ["el"], budget="2 hours")
    assert not (tmp_path / "study").exists()


def test_callbacks_and_a_mixed_loss_trainer_are_kept(trainer_of, tmp_path):
    seen = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, **_):
            seen.append(args.seed)

    make = lambda seed: trainer_of(seed, MixedLossTrainer, callbacks=[Watch()])  # noqa: E731
    hf_elmix.compare(make, ["ce", "el"], max_seeds=1, output_dir=tmp_path, resample=True)
    assert seen == [0, 0]
    assert all(record.settings["resample"] for record in Store(tmp_path).records())


def test_class_weights_are_kept_and_other_data_or_weights_refused(trainer_of, kit, tmp_path):
    def compare(**given):
        make = lambda seed: trainer_of(seed, MixedLossTrainer, **given)  # noqa: E731
        return hf_elmix.compare(make, ["ce", "el"], max_seeds=1, output_dir=tmp_path)

    compare(class_weights=[1.0, 2.0, 3.0])
    (weights,) = {record.settings["class_weights"] for record in Store(tmp_path).records()}
    assert weights == "tensor([1., 2., 3.])"
    given = _inputs(lambda seed: trainer_of(seed, MixedLossTrainer, class_weights=[1.0, 2.0, 3.0]), 0)
    assert given.trainer["class_weights"].tolist() == [1, 2, 3]
    for other in ({}, {"class_weights": [1.0, 2.0, 4.0]}):
        with pytest.raises(UsageError, match="class_weights"):
            compare(**other)
    changed = kit.sequence_rows(8).map(lambda row: {"labels": (row["labels"] + 1) % 3})
    with pytest.raises(UsageError, match="data"):
        compare(class_weights=[1.0, 2.0, 3.0], train_dataset=changed)


def test_a_function_has_the_same_name_in_every_process(trainer_of, tmp_path):
    def squared(logits, labels):
        return (1 - logits.softmax(-1).gather(-1, labels[:, None]).squeeze(-1)) ** 2

    found = hf_elmix.compare(trainer_of, ["ce", squared], max_seeds=1, output_dir=tmp_path)
    assert list(found.verdict) == ["squared"]


def test_a_notebook_shows_one_table_that_is_kept_up_to_date(monkeypatch):
    assert _in_notebook() is None
    shown = []
    display = ModuleType("IPython.display")
    display.display = lambda display_id: SimpleNamespace(update=shown.append)
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr("hf_elmix.comparison.trainers.Console", lambda: SimpleNamespace(is_jupyter=True))
    _in_notebook()("the comparison", "a line")
    assert shown == ["the comparison"]
